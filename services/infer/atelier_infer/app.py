"""The application, put together from its parts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from atelier_contracts.request_body import RequestBodies
from atelier_contracts.tokens import TokenFile
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from atelier_infer.aliases.alias_tracker import AliasTracker, ReportRevert, log_revert
from atelier_infer.aliases.event_listener import EventListener
from atelier_infer.aliases.integrity_monitor import IntegrityMonitor
from atelier_infer.api.access_log import AccessLog
from atelier_infer.api.auth import IMAGES, MAX_BODY_BYTES, Authentication
from atelier_infer.api.generate import make_generating_router
from atelier_infer.api.jobs import make_jobs_router
from atelier_infer.api.models import make_router
from atelier_infer.api.openai_images import make_images_router
from atelier_infer.api.stage import make_staging_router
from atelier_infer.api.ui import make_page_router, page_files
from atelier_infer.api.upload_limiter import UploadLimiter
from atelier_infer.api.verify import make_verifying_router
from atelier_infer.artifacts.artifact_cache import ArtifactCache
from atelier_infer.artifacts.bundle_opener import BundleOpener
from atelier_infer.artifacts.cache_eviction import CacheEvictor
from atelier_infer.artifacts.version_loader import VersionLoader
from atelier_infer.engine.denoising_step import DenoisingStep, probe
from atelier_infer.engine.engine import Engine
from atelier_infer.engine.memory_account import MIB, MemoryAccount
from atelier_infer.engine.memory_limit import usable_bytes
from atelier_infer.engine.memory_measurement import Measurement
from atelier_infer.generation.canary import Canary
from atelier_infer.generation.model_selection import ModelSelector
from atelier_infer.generation.service import GenerationService
from atelier_infer.generation.webhooks import WebhookSender
from atelier_infer.metrics import Metrics
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.adapter import Adapter
from atelier_infer.pipeline.bundle import Bundle
from atelier_infer.pipeline.memory_model import MemoryModel
from atelier_infer.problems import add_handlers
from atelier_infer.registry.model_store import ModelStore
from atelier_infer.registry.not_found import NotFoundMessages
from atelier_infer.registry.validation_images import ValidationImages
from atelier_infer.settings import Settings, events
from atelier_infer.settings import callbacks as callbacks_of


def make_memory(settings: Settings) -> MemoryAccount:
    """The account of memory, with the limit of the settings or what there is."""
    limit = settings.memory_mib * MIB if settings.memory_mib is not None else usable_bytes()
    return MemoryAccount(limit, shrinks=settings.provider == "cpu")


def make_engine(settings: Settings, metrics: Metrics, memory: MemoryAccount | None = None) -> Engine:
    """The engine over the real graphs; not started. The application takes its account of memory from here."""
    memory = memory or make_memory(settings)
    batch = DenoisingStep(rows_at_once=memory.rows_at_once, failed=memory.failed, shrink=memory.shrink)
    memory.watch("side_by_side", lambda: batch.nbytes)
    return Engine(
        advance=batch.step,
        queue_limit=settings.queue_limit,
        rows_limit=settings.batch_rows,
        rank_limit=settings.batch_rank,
        drain_timeout_s=settings.drain_timeout_s,
        stuck_after_s=settings.stuck_after_s,
        memory=memory,
        stepped=metrics.stepped,
    )


def make_runtime(settings: Settings) -> Runtime:
    """What runs the graphs, as the settings say."""
    return Runtime(settings.provider, settings.intra_op_threads, settings.cache_dir)


def create_app(
    *,
    engine: Engine,
    metrics: Metrics,
    store: ModelStore,
    tokens: TokenFile,
    settings: Settings,
    measure: Callable[[Path, int], MemoryModel | None] | None = None,
    report_revert: ReportRevert = log_revert,
) -> FastAPI:
    """Wires the parts. Threads start with the application's lifespan and end with it.

    Args:
        engine: not started yet.
        metrics: that the engine tells of its steps.
        store: the model registry.
        tokens: who may come in.
        settings: complete.
        measure: what a base in a folder needs in memory, with so many bytes to measure in; by default a process measures it.
        report_revert: told of each alias that goes back to the version before it.
    """
    memory, runtime = engine.memory or make_memory(settings), make_runtime(settings)
    disk = CacheEvictor(settings.cache_dir, settings.cache_limit_mib * MIB)
    shelf = ArtifactCache(store, settings.cache_dir, used=disk.used)
    opener = BundleOpener(
        memory=memory,
        runtime=runtime,
        decode_tile_px=settings.decode_tile_px,
        measure=measure or Measurement(runtime, decode_tile_px=settings.decode_tile_px, max_side_px=settings.max_side_px),
    )

    def probe_between_steps(bundle: Bundle, adapter: Adapter) -> None:
        memory.take_adapter(adapter)
        engine.run_between_steps(partial(probe, bundle, adapter))

    loader = VersionLoader(
        shelf=shelf,
        open_bundle=opener,
        probe=probe_between_steps,
        adapter_cache_mib=settings.adapter_cache_mib,
    )
    gallery = ValidationImages(store)
    versions = AliasTracker(
        store=store,
        loader=loader,
        absent=NotFoundMessages(store=store, model=settings.model, registry_url=settings.registry_url),
        model=settings.model,
        cache_dir=settings.cache_dir,
        alias_poll_s=settings.alias_poll_s,
        require_promotion=settings.require_promotion,
        followed=[settings.canary_alias] if settings.canary_alias else [],
        report_revert=report_revert,
        made_anew=gallery.forget,
    )
    integrity = IntegrityMonitor(shelf=shelf, versions=versions, every_s=settings.integrity_check_s)
    disk.keep(partial(_digests, loader, versions))
    canary = None
    if settings.canary_alias and settings.canary_percent is not None:
        canary = Canary(alias=settings.canary_alias, percent=settings.canary_percent, versions=versions)

    hosts, key = callbacks_of(settings)
    callbacks = WebhookSender(hosts=hosts, key=key, told=metrics.callback)
    chooser = ModelSelector(versions, loader)
    desk = GenerationService(
        engine=engine,
        versions=versions,
        chooser=chooser,
        metrics=metrics,
        settings=settings,
        canary=canary,
        callbacks=callbacks,
        memory=memory,
    )
    uploads = UploadLimiter(limit_bytes=settings.upload_mib * MIB, timeout_s=settings.upload_timeout_s)
    memory.watch("images", lambda: desk.nbytes)
    memory.watch("uploads", lambda: uploads.nbytes)
    metrics.memory(memory.limit_bytes, memory.parts)
    for name, (help, read) in _gauges(engine, loader, versions, canary, callbacks).items():
        metrics.gauge(name, help, read)

    following = None
    if source := events(settings):
        following = EventListener(url=source[0], token=source[1], model=settings.model, moved=versions.look_again)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        shelf.tidy()
        disk.trim()
        engine.start()
        versions.start()
        integrity.start()
        callbacks.start()
        if following:
            following.start()
        yield
        if following:
            following.stop()
        integrity.stop()
        versions.stop()
        by = min(engine.deadline, time.monotonic() + settings.drain_timeout_s)
        engine.stop()
        await desk.ended()
        await run_in_threadpool(callbacks.stop, by)

    app = FastAPI(
        title="Atelier infer",
        summary="A prompt in, an image out, drawn with a version of the registry.",
        lifespan=lifespan,
        docs_url=None,  # the pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.desk, app.state.loader = desk, loader
    app.include_router(
        make_router(
            engine=engine,
            versions=versions,
            loader=loader,
            store=store,
            gallery=gallery,
            integrity=integrity,
            metrics=metrics,
            settings=settings,
            canary=canary,
            disk=disk,
        )
    )
    page = page_files()
    app.include_router(make_page_router(page))
    app.include_router(make_generating_router(desk))
    app.include_router(make_jobs_router(desk, callbacks))
    app.include_router(make_images_router(desk, settings.model))
    app.include_router(make_verifying_router(desk=desk, chooser=chooser, loader=loader, settings=settings))
    app.include_router(make_staging_router(desk=desk, engine=engine, loader=loader, settings=settings))
    add_handlers(app)
    app.add_middleware(RequestBodies, limit_bytes=lambda path: None if path in IMAGES else MAX_BODY_BYTES)
    app.add_middleware(Authentication, tokens=tokens, uploads=uploads, files=frozenset(page))
    app.add_middleware(AccessLog)  # added last, so outermost
    return app


def _digests(loader: VersionLoader, versions: AliasTracker) -> set[str]:
    """Of the adapters and bundles that are in memory or served."""
    adapters, bundles = loader.loaded()
    served = [version.adapter for version in versions.snapshot()[1].values()]
    return {*bundles, *(adapter.digest for adapter in (*adapters.values(), *served) if adapter)}


def _gauges(
    engine: Engine, loader: VersionLoader, versions: AliasTracker, canary: Canary | None, callbacks: WebhookSender
) -> dict[str, tuple[str, Callable[[], float]]]:
    def adapter_bytes() -> float:
        return sum(adapter.nbytes for adapter in loader.loaded()[0].values())

    gauges: dict[str, tuple[str, Callable[[], float]]] = {
        "admitted_images": ("Images that wait, load or are drawn", lambda: engine.admitted),
        "drawing_images": ("Images that take steps", lambda: engine.drawing),
        "callbacks_waiting": ("Callbacks that wait for their first or next try", lambda: callbacks.waiting),
        "adapters_loaded": ("Adapters in memory", lambda: len(loader.loaded()[0])),
        "adapters_bytes": ("Memory of the adapters", adapter_bytes),
        "bundles_loaded": ("Bases in memory", lambda: len(loader.loaded()[1])),
        "stale": ("1 where some alias does not serve its target, or tracking is away", lambda: float(versions.stale)),
    }
    if canary:
        taking = canary.version
        gauges["canary_takes_requests"] = (
            "1 where the canary draws its share, 0 where the champion does",
            lambda: bool(taking()),
        )
    return gauges
