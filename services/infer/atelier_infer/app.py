"""Creates the application from its parts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from atelier_contracts.tokens import TokenFile
from atelier_service import static_files
from atelier_service.access_log import AccessLog
from atelier_service.auth import MISSING_TOKEN, UNKNOWN_TOKEN, Authentication
from atelier_service.problems import PATH, add_schemas
from atelier_service.request_body import BodyLimit
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from atelier_infer import settings as settings_module
from atelier_infer.aliases.alias_tracker import AliasTracker
from atelier_infer.aliases.event_listener import EventListener
from atelier_infer.aliases.integrity_monitor import IntegrityMonitor
from atelier_infer.aliases.registry_reader import RegistryReader
from atelier_infer.api.generate import make_generate_router
from atelier_infer.api.health import make_health_router
from atelier_infer.api.jobs import make_jobs_router
from atelier_infer.api.models import make_models_router, make_versions_router
from atelier_infer.api.openai_images import make_openai_router
from atelier_infer.api.stage import make_stage_router
from atelier_infer.api.verify import make_verify_router
from atelier_infer.artifacts.artifact_cache import ArtifactCache
from atelier_infer.artifacts.bundle_opener import BundleOpener
from atelier_infer.artifacts.cache_eviction import CacheEvictor
from atelier_infer.artifacts.version_loader import VersionLoader
from atelier_infer.engine.denoising_step import DenoisingStep, probe
from atelier_infer.engine.engine import Engine
from atelier_infer.engine.memory_budget import MIB, MemoryBudget
from atelier_infer.engine.memory_limit import usable_bytes
from atelier_infer.engine.memory_profiler import MemoryProfiler
from atelier_infer.generation.canary import Canary
from atelier_infer.generation.job_store import JobStore
from atelier_infer.generation.model_selection import ModelSelector
from atelier_infer.generation.sampling_params import SamplingRules
from atelier_infer.generation.service import GenerationService
from atelier_infer.generation.webhooks import WebhookLimits, WebhookSender
from atelier_infer.metrics import Metrics
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.adapter import Adapter
from atelier_infer.pipeline.bundle import Bundle
from atelier_infer.pipeline.memory_model import MemoryModel
from atelier_infer.problems import TABLE
from atelier_infer.registry.model_store import ModelStore
from atelier_infer.registry.not_found import NotFoundErrors
from atelier_infer.registry.validation_images import ValidationImages
from atelier_infer.settings import Settings
from atelier_infer.upload_limiter import IMAGE_PATHS, MAX_BODY_BYTES, LimitedUploads, UploadLimiter

PAGE_FOLDER = Path(__file__).parent / "api/static"
HEALTH_PATHS = ("/healthz", "/readyz")
"""Served without a token and without details, and not logged."""


@dataclass(frozen=True)
class Timings:
    """Waits and retries that are not settings.

    Attributes:
        alias_load_timeout_s: how long a request waits for an alias that is being loaded for the first time.
        alias_max_retry_s: longest pause before a refused target of an alias is tried again.
        refusal_ttl_s: how long a refused version is refused again without another download.
    """

    alias_load_timeout_s: float = 10.0
    alias_max_retry_s: float = 60.0
    refusal_ttl_s: float = 10.0
    webhooks: WebhookLimits = field(default_factory=WebhookLimits)


def make_memory_budget(settings: Settings) -> MemoryBudget:
    limit = settings.memory_mib * MIB if settings.memory_mib is not None else usable_bytes()
    return MemoryBudget(limit, shrinks=settings.provider == "cpu")


def make_engine(settings: Settings, metrics: Metrics, memory: MemoryBudget | None = None) -> Engine:
    """Not started."""
    memory = memory or make_memory_budget(settings)
    step = DenoisingStep(
        max_rows=memory.max_rows, record_out_of_memory=memory.record_out_of_memory, shrink_after=memory.shrink_after
    )
    memory.add_source("concatenated_adapters", lambda: step.nbytes)
    return Engine(
        take_step=step.step,
        queue_limit=settings.queue_limit,
        rows_limit=settings.batch_rows,
        rank_limit=settings.batch_rank,
        drain_timeout_s=settings.drain_timeout_s,
        stuck_after_s=settings.stuck_after_s,
        memory=memory,
        record_step=metrics.step,
    )


def make_runtime(settings: Settings) -> Runtime:
    return Runtime(settings.provider, settings.intra_op_threads, settings.cache_dir)


def create_app(
    *,
    engine: Engine,
    metrics: Metrics,
    store: ModelStore,
    tokens: TokenFile,
    settings: Settings,
    measure: Callable[[Path, int], MemoryModel | None] | None = None,
    timings: Timings | None = None,
) -> FastAPI:
    """Threads start and end with the application's lifespan.

    Args:
        engine: not started.
        metrics: those of the engine.
        store: the model registry.
        tokens: of the clients.
        settings: of the service.
        measure: memory model of the base model in a folder, measured within a number of bytes; by default a child process.
        timings: waits and retries.
    """
    timings = timings or Timings()
    memory, runtime = engine.memory or make_memory_budget(settings), make_runtime(settings)
    evictor = CacheEvictor(settings.cache_dir, settings.cache_limit_mib * MIB)
    cache = ArtifactCache(store, settings.cache_dir, record_use=evictor.record_use)
    profiler = MemoryProfiler(runtime, decode_tile_px=settings.decode_tile_px, max_side_px=settings.max_side_px)
    loader = VersionLoader(
        cache=cache,
        open_bundle=BundleOpener(
            memory=memory, runtime=runtime, decode_tile_px=settings.decode_tile_px, measure=measure or profiler
        ),
        probe=partial(_probe, engine, memory),
        adapter_cache_mib=settings.adapter_cache_mib,
        refusal_ttl_s=timings.refusal_ttl_s,
    )
    tracker = AliasTracker(
        reader=RegistryReader(
            store=store,
            model=settings.model,
            cache_dir=settings.cache_dir,
            require_promotion=settings.require_promotion,
        ),
        loader=loader,
        not_found=NotFoundErrors(store=store, model=settings.model, registry_url=settings.registry_url),
        poll_s=settings.alias_poll_s,
        permanent=[settings.canary_alias] if settings.canary_alias else [],
        load_timeout_s=timings.alias_load_timeout_s,
        max_retry_s=timings.alias_max_retry_s,
    )
    evictor.protect(partial(_digests_in_use, loader, tracker))
    integrity = IntegrityMonitor(cache=cache, tracker=tracker, interval_s=settings.integrity_check_s)
    canary = None
    if settings.canary_alias and settings.canary_percent is not None:
        canary = Canary(alias=settings.canary_alias, percent=settings.canary_percent, tracker=tracker)

    hosts, key = settings_module.webhooks(settings)
    webhooks = WebhookSender(hosts=hosts, key=key, record_outcome=metrics.webhook, limits=timings.webhooks)
    service = GenerationService(
        model=settings.model,
        engine=engine,
        tracker=tracker,
        selector=ModelSelector(tracker, loader),
        rules=SamplingRules(settings.scheduler, settings.max_side_px, memory),
        jobs=JobStore(retention_s=settings.job_retention_s, retention_bytes=settings.job_retention_mib * MIB),
        webhooks=webhooks,
        metrics=metrics,
        canary=canary,
    )
    uploads = UploadLimiter(limit_bytes=settings.upload_mib * MIB, timeout_s=settings.upload_timeout_s)
    memory.add_source("images", lambda: service.jobs.nbytes)
    memory.add_source("uploads", lambda: uploads.nbytes)
    metrics.add_memory(memory.limit_bytes, memory.usage)
    _add_gauges(metrics, engine, loader, tracker)
    metrics.add_gauge("webhooks_pending", "Webhooks that wait for their first or next attempt", lambda: webhooks.pending)
    if canary:
        metrics.add_gauge("canary_active", "1 if the canary serves its share", partial(_is_active, canary))

    listener = None
    if source := settings_module.events(settings):
        listener = EventListener(url=source[0], token=source[1], model=settings.model, on_change=tracker.refresh)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        cache.remove_abandoned_downloads()
        evictor.trim()
        engine.start()
        tracker.start()
        integrity.start()
        webhooks.start()
        if listener:
            listener.start()
        yield
        if listener:
            listener.stop()
        integrity.stop()
        tracker.stop()
        deadline = min(engine.deadline, time.monotonic() + settings.drain_timeout_s)
        engine.stop()
        await service.wait_for_all()
        await run_in_threadpool(webhooks.stop, deadline)

    app = FastAPI(
        title="Atelier infer",
        summary="Generates images from prompts with versions of the model registry.",
        lifespan=lifespan,
        docs_url=None,  # those pages load third-party scripts
        redoc_url=None,
    )
    app.state.service, app.state.loader = service, loader
    for router in (
        make_health_router(engine=engine, tracker=tracker, metrics=metrics),
        make_models_router(
            engine=engine,
            tracker=tracker,
            loader=loader,
            integrity=integrity,
            evictor=evictor,
            settings=settings,
            canary=canary,
        ),
        make_versions_router(
            store=store,
            tracker=tracker,
            loader=loader,
            cache=cache,
            validation_images=ValidationImages(store),
            settings=settings,
        ),
        make_generate_router(service),
        make_jobs_router(service, webhooks),
        make_openai_router(service, settings.model),
        make_verify_router(service=service, settings=settings),
        make_stage_router(service=service, engine=engine, loader=loader, settings=settings),
    ):
        app.include_router(router)
    static_files.mount_page(app, PAGE_FOLDER)
    TABLE.install(app, [MISSING_TOKEN, UNKNOWN_TOKEN])
    add_schemas(app)
    app.add_middleware(BodyLimit, limit_bytes=lambda path: None if path in IMAGE_PATHS else MAX_BODY_BYTES)
    app.add_middleware(LimitedUploads, uploads=uploads)
    app.add_middleware(Authentication, tokens=tokens, is_public=is_public)
    app.add_middleware(AccessLog, quiet=HEALTH_PATHS)  # added last, so it is the outermost
    return app


def is_public(path: str) -> bool:
    """Whether a path is served without a token."""
    return path in HEALTH_PATHS or static_files.is_public(path) or path.startswith(PATH)


def _probe(engine: Engine, memory: MemoryBudget, bundle: Bundle, adapter: Adapter) -> None:
    memory.add_adapter(adapter)
    engine.run_between_steps(partial(probe, bundle, adapter))


def _digests_in_use(loader: VersionLoader, tracker: AliasTracker) -> set[str]:
    """Of adapters and bundles that are in memory or served."""
    adapters, bundles = loader.loaded()
    served = [version.adapter for version in tracker.snapshot()[1].values()]
    return {*bundles, *(adapter.digest for adapter in (*adapters.values(), *served) if adapter)}


def _is_active(canary: Canary) -> bool:
    return canary.status().inactive_reason is None


def _add_gauges(metrics: Metrics, engine: Engine, loader: VersionLoader, tracker: AliasTracker) -> None:
    def adapter_bytes() -> float:
        return sum(adapter.nbytes for adapter in loader.loaded()[0].values())

    metrics.add_gauge(
        "admitted_images", "Images that are waiting, running or loading their version", lambda: engine.admission.admitted
    )
    metrics.add_gauge("running_images", "Images that take steps", lambda: engine.running)
    metrics.add_gauge("adapters_loaded", "Adapters in memory", lambda: len(loader.loaded()[0]))
    metrics.add_gauge("adapters_bytes", "Memory of the adapters", adapter_bytes)
    metrics.add_gauge("bundles_loaded", "Base models in memory", lambda: len(loader.loaded()[1]))
    metrics.add_gauge(
        "stale", "1 if some alias does not serve its target or tracking is unavailable", lambda: float(tracker.stale)
    )
