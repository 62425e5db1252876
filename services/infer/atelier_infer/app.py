"""The application, put together from its parts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from atelier_contracts.access import TokenFile
from atelier_contracts.request_body import RequestBodies
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from atelier_infer.absent import Absent
from atelier_infer.adapter import Adapter
from atelier_infer.batch import Batch, probe
from atelier_infer.bundle import Bundle
from atelier_infer.callbacks import Callbacks
from atelier_infer.canary import Canary
from atelier_infer.choosing import Chooser
from atelier_infer.desk import Desk
from atelier_infer.disk_cache import DiskCache
from atelier_infer.engine import Engine
from atelier_infer.following import Following
from atelier_infer.gallery import Gallery
from atelier_infer.gate import MAX_BODY_BYTES, PICTURES, Gate
from atelier_infer.generating import make_generating_router
from atelier_infer.integrity import IntegrityMonitor
from atelier_infer.jobs import make_jobs_router
from atelier_infer.loader import Loader
from atelier_infer.memory import MIB, Memory
from atelier_infer.memory_limit import usable_bytes
from atelier_infer.memory_measurement import Measurement
from atelier_infer.memory_model import MemoryModel
from atelier_infer.metrics import Metrics
from atelier_infer.openai_images import make_images_router
from atelier_infer.opener import Opener
from atelier_infer.page import make_page_router, page_files
from atelier_infer.problems import add_handlers
from atelier_infer.providers import Runtime
from atelier_infer.requestlog import RequestLog
from atelier_infer.routes import make_router
from atelier_infer.settings import Settings, events
from atelier_infer.settings import callbacks as callbacks_of
from atelier_infer.shelf import Shelf
from atelier_infer.staging import make_staging_router
from atelier_infer.store import Store
from atelier_infer.uploads import Uploads
from atelier_infer.verifying import make_verifying_router
from atelier_infer.versions import ReportRevert, Versions, log_revert


def make_memory(settings: Settings) -> Memory:
    """The account of memory, with the limit of the settings or what there is."""
    limit = settings.memory_mib * MIB if settings.memory_mib is not None else usable_bytes()
    return Memory(limit, shrinks=settings.provider == "cpu")


def make_engine(settings: Settings, metrics: Metrics, memory: Memory | None = None) -> Engine:
    """The engine over the real graphs; not started. The application takes its account of memory from here."""
    memory = memory or make_memory(settings)
    batch = Batch(rows_at_once=memory.rows_at_once, failed=memory.failed, shrink=memory.shrink)
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
    store: Store,
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
    disk = DiskCache(settings.cache_dir, settings.cache_limit_mib * MIB)
    shelf = Shelf(store, settings.cache_dir, used=disk.used)
    opener = Opener(
        memory=memory,
        runtime=runtime,
        decode_tile_px=settings.decode_tile_px,
        measure=measure or Measurement(runtime, decode_tile_px=settings.decode_tile_px, max_side_px=settings.max_side_px),
    )

    def probe_between_steps(bundle: Bundle, adapter: Adapter) -> None:
        memory.take_adapter(adapter)
        engine.errand(partial(probe, bundle, adapter))

    loader = Loader(
        shelf=shelf,
        open_bundle=opener,
        probe=probe_between_steps,
        adapter_cache_mib=settings.adapter_cache_mib,
    )
    gallery = Gallery(store)
    versions = Versions(
        store=store,
        loader=loader,
        absent=Absent(store=store, model=settings.model, registry_url=settings.registry_url),
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
    callbacks = Callbacks(hosts=hosts, key=key, told=metrics.callback)
    chooser = Chooser(versions, loader)
    desk = Desk(
        engine=engine,
        versions=versions,
        chooser=chooser,
        metrics=metrics,
        settings=settings,
        canary=canary,
        callbacks=callbacks,
        memory=memory,
    )
    uploads = Uploads(limit_bytes=settings.upload_mib * MIB, timeout_s=settings.upload_timeout_s)
    memory.watch("pictures", lambda: desk.nbytes)
    memory.watch("uploads", lambda: uploads.nbytes)
    metrics.memory(memory.limit_bytes, memory.parts)
    for name, (help, read) in _gauges(engine, loader, versions, canary, callbacks).items():
        metrics.gauge(name, help, read)

    following = None
    if source := events(settings):
        following = Following(url=source[0], token=source[1], model=settings.model, moved=versions.look_again)

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
        summary="A prompt in, a picture out, drawn with a version of the registry.",
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
    app.add_middleware(RequestBodies, limit_bytes=lambda path: None if path in PICTURES else MAX_BODY_BYTES)
    app.add_middleware(Gate, tokens=tokens, uploads=uploads, files=frozenset(page))
    app.add_middleware(RequestLog)  # added last, so outermost
    return app


def _digests(loader: Loader, versions: Versions) -> set[str]:
    """Of the adapters and bundles that are in memory or served."""
    adapters, bundles = loader.loaded()
    served = [version.adapter for version in versions.snapshot()[1].values()]
    return {*bundles, *(adapter.digest for adapter in (*adapters.values(), *served) if adapter)}


def _gauges(
    engine: Engine, loader: Loader, versions: Versions, canary: Canary | None, callbacks: Callbacks
) -> dict[str, tuple[str, Callable[[], float]]]:
    def adapter_bytes() -> float:
        return sum(adapter.nbytes for adapter in loader.loaded()[0].values())

    gauges: dict[str, tuple[str, Callable[[], float]]] = {
        "admitted_pictures": ("Pictures that wait, load or are drawn", lambda: engine.admitted),
        "drawing_pictures": ("Pictures that take steps", lambda: engine.drawing),
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
