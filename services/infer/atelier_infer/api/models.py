"""`/models`: what is loaded and served; `/versions`: what a request may name."""

from __future__ import annotations

from typing import Any

from atelier_contracts.identifiers import VersionNumber
from atelier_contracts.served import ServedAlias
from atelier_service import previews
from fastapi import APIRouter, Depends, Response
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from atelier_infer.aliases.alias_tracker import AliasTracker
from atelier_infer.aliases.integrity_monitor import IntegrityMonitor
from atelier_infer.aliases.served_aliases import Failure
from atelier_infer.api.schemas import (
    CanaryState,
    LoadedAdapter,
    LoadedBundle,
    MemoryUsage,
    ModelsResponse,
    VersionsResponse,
    VersionSummary,
)
from atelier_infer.artifacts.artifact_cache import ArtifactCache
from atelier_infer.artifacts.cache_eviction import CacheEvictor
from atelier_infer.artifacts.version_loader import Version, VersionLoader
from atelier_infer.engine.engine import Engine
from atelier_infer.engine.memory_budget import MIB, MemoryBudget
from atelier_infer.errors import NoPreviewError
from atelier_infer.generation.canary import Canary
from atelier_infer.pipeline.adapter import Adapter
from atelier_infer.problems import DOCUMENTED
from atelier_infer.registry.model_store import ModelStore
from atelier_infer.registry.validation_images import ValidationImages
from atelier_infer.settings import Settings

IMAGE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}
PREVIEW: dict[int | str, dict[str, Any]] = {200: {"content": {previews.MEDIA_TYPE: {}}}}


def make_models_router(
    *,
    engine: Engine,
    tracker: AliasTracker,
    loader: VersionLoader,
    integrity: IntegrityMonitor,
    evictor: CacheEvictor,
    settings: Settings,
    canary: Canary | None = None,
) -> APIRouter:
    router = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))])  # documents the authentication of the middleware

    def served_alias(alias: str, target: int, version: Version | None, failure: Failure | None) -> ServedAlias:
        return ServedAlias(
            target_version=target,
            serving_version=version.number if version else None,
            adapter_digest=version.adapter.digest if version and version.adapter else None,
            reverted_version=tracker.reverted(alias),
            problem=str(failure.error) if failure else _changed_files(integrity, version),
        )

    @router.get("/models", responses={401: DOCUMENTED[401]})
    async def models() -> ModelsResponse:
        """What is loaded, and the version that each alias serves."""
        registered, serving, failures = tracker.snapshot()
        targets = registered.aliases if registered else {}
        adapters, bundles = loader.loaded()
        return ModelsResponse(
            model=settings.model,
            scheduler=settings.scheduler,
            provider=settings.provider,
            aliases={
                alias: served_alias(alias, target, serving.get(alias), failures.get(alias)) for alias, target in targets.items()
            },
            canary=_canary_state(canary) if canary else None,
            adapters=[
                LoadedAdapter(
                    **_description(number, adapter, tracker),
                    adapter_digest=adapter.digest,
                    bundle_digest=adapter.manifest.bundle_digest,
                    rank=adapter.manifest.rank,
                    size_mib=round(adapter.nbytes / MIB, 3),
                )
                for number, adapter in adapters.items()
            ],
            adapters_mib=round(sum(adapter.nbytes for adapter in adapters.values()) / MIB, 3),
            bundles=[
                LoadedBundle(
                    bundle_digest=digest, base_model=bundle.manifest.base, native_size_px=bundle.manifest.native_size_px
                )
                for digest, bundle in bundles.items()
            ],
            admitted_images=engine.admission.admitted,
            memory=_memory_usage(engine.memory) if engine.memory else None,
            cache_mib=round(await run_in_threadpool(lambda: evictor.nbytes) / MIB, 1),
            cache_limit_mib=settings.cache_limit_mib,
        )

    return router


def make_versions_router(
    *,
    store: ModelStore,
    tracker: AliasTracker,
    loader: VersionLoader,
    cache: ArtifactCache,
    validation_images: ValidationImages,
    settings: Settings,
) -> APIRouter:
    router = APIRouter(prefix="/versions", dependencies=[Depends(HTTPBearer(auto_error=False))])

    @router.get("", responses={401: DOCUMENTED[401], 503: DOCUMENTED[503]})
    async def versions() -> VersionsResponse:
        """All versions that a request may name, newest first."""
        existing = await run_in_threadpool(store.versions)
        registered, serving, _ = tracker.snapshot()
        aliases = registered.aliases if registered else {}
        adapters, _ = loader.loaded()
        manifest = next((version.bundle.manifest for version in serving.values()), None)
        return VersionsResponse(
            model=settings.model,
            native_size_px=manifest.native_size_px if manifest else None,
            size_multiple_px=manifest.size_multiple_px if manifest else None,
            max_side_px=settings.max_side_px,
            scheduler=settings.scheduler,
            versions=[
                VersionSummary(
                    **_description(version.number, adapters.get(version.number), tracker),
                    aliases=sorted(alias for alias, number in aliases.items() if number == version.number),
                    created_at=version.created_at,
                    image=f"/versions/{version.number}/image",
                )
                for version in reversed(existing)
            ],
        )

    @router.get(
        "/{version}/image",
        response_class=Response,
        responses=IMAGE | {status: DOCUMENTED[status] for status in (401, 404, 409, 422, 503)},
    )
    async def validation_image(version: VersionNumber) -> Response:
        """The image that the version's training logged for its first validation prompt."""
        registered = tracker.snapshot()[0]
        generation = registered.generation if registered else ""
        png = await run_in_threadpool(validation_images.get, generation, version)
        return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    @router.get(
        "/{version}/preview",
        response_class=Response,
        responses=PREVIEW | {status: DOCUMENTED[status] for status in (401, 404, 422)},
    )
    async def preview(version: VersionNumber) -> Response:
        """The preview of a version that is in memory, encoded by this service."""
        adapter = loader.loaded()[0].get(version)
        content = await run_in_threadpool(cache.preview, adapter.digest) if adapter else None
        if content is None:
            reason = "has no preview" if adapter else "is not in memory"
            raise NoPreviewError(f"version {version} {reason}; GET /versions lists the previews there are")
        try:
            picture = await run_in_threadpool(previews.reencode, content)
        except previews.InvalidPreview as error:
            raise NoPreviewError(f"version {version} has no preview: {error}") from error
        return Response(picture, media_type=previews.MEDIA_TYPE, headers={"Cache-Control": "private, max-age=3600"})

    return router


def _description(number: int, adapter: Adapter | None, tracker: AliasTracker) -> dict[str, Any]:
    """Fields of `DescribedVersion`."""
    if adapter is None:
        return {"version": number}
    style = tracker.style_edits.edits.over(adapter.manifest.style)
    return {
        "version": number,
        "style": style,
        "preview": f"/versions/{number}/preview" if adapter.manifest.preview_sha256 else None,
    }


def _changed_files(integrity: IntegrityMonitor, version: Version | None) -> str | None:
    if not (version and version.number and version.adapter):
        return None
    return integrity.problem(version.number, version.adapter.digest)


def _memory_usage(memory: MemoryBudget) -> MemoryUsage:
    return MemoryUsage(
        limit_mib=round(memory.limit_bytes / MIB, 1),
        free_mib=round(memory.free_bytes / MIB, 1),
        used_mib={part: round(nbytes / MIB, 1) for part, nbytes in memory.usage().items()},
    )


def _canary_state(canary: Canary) -> CanaryState:
    version, inactive_reason = canary.status()
    return CanaryState(
        alias=canary.alias,
        percent=canary.percent,
        serving_version=version.number if version else None,
        active=inactive_reason is None,
        inactive_reason=inactive_reason,
    )
