"""What is loaded, what there is, and whether the service is alive."""

from __future__ import annotations

from typing import Any

from atelier_contracts.identifiers import VersionNumber
from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from atelier_infer.aliases.alias_tracker import AliasTracker
from atelier_infer.aliases.integrity_monitor import IntegrityMonitor
from atelier_infer.api.schemas import (
    CanaryState,
    Listed,
    LoadedAdapter,
    LoadedBundle,
    MemoryState,
    Models,
    Served,
    Status,
    VersionList,
)
from atelier_infer.artifacts.cache_eviction import CacheEvictor
from atelier_infer.artifacts.version_loader import Version, VersionLoader
from atelier_infer.engine.engine import Engine
from atelier_infer.engine.memory_account import MIB, MemoryAccount
from atelier_infer.generation.canary import Canary
from atelier_infer.metrics import Metrics
from atelier_infer.problems import DOCUMENTED
from atelier_infer.registry.model_store import ModelStore
from atelier_infer.registry.validation_images import ValidationImages
from atelier_infer.settings import Settings

IMAGE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}


def make_router(
    *,
    engine: Engine,
    versions: AliasTracker,
    loader: VersionLoader,
    store: ModelStore,
    gallery: ValidationImages,
    integrity: IntegrityMonitor,
    metrics: Metrics,
    settings: Settings,
    disk: CacheEvictor,
    canary: Canary | None = None,
) -> APIRouter:
    """The routes, over the parts given."""
    router = APIRouter()
    login = [Depends(HTTPBearer(auto_error=False))]  # for the OpenAPI document; the gate has looked already

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", responses={503: {"model": Status}})
    async def healthz() -> Response:
        """The process answers, and the thread that draws works or waits for work; otherwise start it anew. No login."""
        if not engine.alive:
            return JSONResponse(Status(status="stuck").model_dump(), 503)
        return JSONResponse(Status(status="alive").model_dump())

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", responses={503: {"model": Status}})
    async def readyz() -> Response:
        """Requests can be answered, be it with "no champion yet". No login."""
        if engine.draining or not versions.answered:
            status = Status(status="draining" if engine.draining else "starting")
            return JSONResponse(status.model_dump(), 503)
        return JSONResponse(Status(status="stale" if versions.stale else "ready").model_dump())

    @router.get("/metrics", dependencies=login, response_class=Response, responses={401: DOCUMENTED[401]})
    async def exposition() -> Response:
        """Prometheus' text format: queue, rows and seconds of steps, images and their seconds by version and alias."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/models", dependencies=login, responses={401: DOCUMENTED[401]})
    async def models() -> Models:
        """What is loaded and which version each alias draws with."""
        view, serving, failures = versions.snapshot()
        adapters, bundles = loader.loaded()
        return Models(
            model=settings.model,
            scheduler=settings.scheduler,
            provider=settings.provider,
            aliases={
                alias: Served(
                    target=target,
                    serving=serving[alias].number if alias in serving else None,
                    adapter_digest=_digest(serving.get(alias)),
                    reverted_from=versions.reverted(alias),
                    problem=str(failures[alias].error) if alias in failures else _changed(integrity, serving.get(alias)),
                )
                for alias, target in (view.aliases if view else {}).items()
            },
            canary=_state(canary) if canary else None,
            adapters=[
                LoadedAdapter(
                    version=number,
                    adapter_digest=adapter.digest,
                    bundle_digest=adapter.manifest.bundle_digest,
                    rank=adapter.manifest.rank,
                    mib=round(adapter.nbytes / 2**20, 3),
                )
                for number, adapter in adapters.items()
            ],
            adapters_mib=round(sum(adapter.nbytes for adapter in adapters.values()) / 2**20, 3),
            bundles=[
                LoadedBundle(bundle_digest=digest, base=bundle.manifest.base, native_size_px=bundle.manifest.native_size_px)
                for digest, bundle in bundles.items()
            ],
            requests=engine.admitted,
            memory=_memory(engine.memory) if engine.memory else None,
            cache_mib=round(await run_in_threadpool(lambda: disk.nbytes) / MIB, 1),
            cache_limit_mib=settings.cache_limit_mib,
        )

    @router.get("/versions", dependencies=login, responses={401: DOCUMENTED[401], 503: DOCUMENTED[503]})
    async def listed() -> VersionList:
        """Every version that a request may name, the newest first."""
        entries = await run_in_threadpool(store.versions)
        view, serving, _ = versions.snapshot()
        aliases = view.aliases if view else {}
        champion = next((version.bundle.manifest for version in serving.values()), None)
        return VersionList(
            model=settings.model,
            native_size_px=champion.native_size_px if champion else None,
            size_multiple_px=champion.size_multiple_px if champion else None,
            max_side_px=settings.max_side_px,
            scheduler=settings.scheduler,
            versions=[
                Listed(
                    version=entry.number,
                    aliases=sorted(alias for alias, number in aliases.items() if number == entry.number),
                    created_at=entry.created_at,
                    image=f"/versions/{entry.number}/image",
                )
                for entry in reversed(entries)
            ],
        )

    @router.get(
        "/versions/{version}/image",
        dependencies=login,
        response_class=Response,
        responses=IMAGE | {status: DOCUMENTED[status] for status in (401, 404, 409, 422, 503)},
    )
    async def validation_image(version: VersionNumber) -> Response:
        """The image that the version's training logged of its first validation prompt."""
        png = await run_in_threadpool(gallery.image, version)
        return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    return router


def _digest(version: Version | None) -> str | None:
    return version.adapter.digest if version and version.adapter else None


def _changed(integrity: IntegrityMonitor, version: Version | None) -> str | None:
    """What is wrong with the files of the version that an alias draws with."""
    if not (version and version.number and version.adapter):
        return None
    return integrity.problem(version.number, version.adapter.digest)


def _memory(memory: MemoryAccount) -> MemoryState:
    return MemoryState(
        limit_mib=round(memory.limit_bytes / MIB, 1),
        free_mib=round(memory.free_bytes / MIB, 1),
        held_mib={part: round(nbytes / MIB, 1) for part, nbytes in memory.parts().items()},
    )


def _state(canary: Canary) -> CanaryState:
    serving, why_not = canary.standing()
    return CanaryState(
        alias=canary.alias,
        percent=canary.percent,
        serving=serving.number if serving else None,
        takes_requests=why_not is None,
        why_not=why_not,
    )
