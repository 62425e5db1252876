"""`POST /stage`: what a version draws before it is promoted. What is served stays as it is."""

from __future__ import annotations

import time
from functools import partial

from atelier_contracts.generate import GenerateRequest
from atelier_contracts.stage import Staged, StagedImage, StageImage, StageRequest
from atelier_contracts.tokens import Role
from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from atelier_infer.api.access_log import CLIENT_GONE
from atelier_infer.artifacts.version_loader import Version, VersionLoader
from atelier_infer.engine.denoising_step import probe
from atelier_infer.engine.engine import Engine
from atelier_infer.errors import RoleError, UnknownModelError
from atelier_infer.generation.model_selection import ModelSelection
from atelier_infer.generation.service import GenerationService
from atelier_infer.problems import DOCUMENTED
from atelier_infer.settings import Settings

NEEDED = Role.promoter
"""A version that was not promoted is shown to those who may promote it."""


def make_staging_router(*, desk: GenerationService, engine: Engine, loader: VersionLoader, settings: Settings) -> APIRouter:
    """The route, over the parts given."""
    router = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))])  # for the OpenAPI document; the gate has looked

    @router.post("/stage", response_model=Staged, responses=DOCUMENTED)
    async def stage(wish: StageRequest, request: Request) -> Staged | Response:
        """Loads and checks a version exactly as serving would, runs one step, and draws the images asked for."""
        token = request.state.token
        if token.role < NEEDED:
            raise RoleError(f"staging needs the role {NEEDED.name} or higher; {token.id} has {token.role.name}")
        if wish.model not in (None, settings.model):
            raise UnknownModelError(f"this service draws with {settings.model!r}; received {wish.model!r}: ask its own infer")
        begun = time.monotonic()
        # a promotion gets memory whatever requests use: a roll back is needed most under load
        version = await run_in_threadpool(
            partial(loader.load, wish.version, to_serve=True, promoted_digest=wish.adapter_digest)
        )
        assert version.adapter is not None  # the loader's versions have one
        loaded = time.monotonic()
        await run_in_threadpool(engine.run_between_steps, partial(probe, version.bundle, version.adapter))
        stepped = time.monotonic()
        drawn = []
        for asked in wish.images:
            if (one := await _draw(asked, version, request)) is None:
                return Response(status_code=CLIENT_GONE)
            drawn.append(one)
        return Staged(
            model=settings.model,
            version=wish.version,
            adapter_digest=version.adapter.digest,
            bundle_digest=version.bundle.digest,
            load_seconds=round(loaded - begun, 4),
            step_seconds=round(stepped - loaded, 4),
            images=drawn,
        )

    async def _draw(asked: StageImage, version: Version, request: Request) -> StagedImage | None:
        begun = time.monotonic()
        body = GenerateRequest.model_validate(
            asked.model_dump(exclude={"size"}) | {"width": asked.size, "height": asked.size, "version": version.number}
        )
        order = await desk.place(body, request.state.token.id, chosen=ModelSelection((version,), (1.0,)))
        if not await desk.wait(order, request):
            return None
        # Base64Bytes decodes what it is constructed with, so raw bytes go around its validation
        return StagedImage.model_construct(asked=asked, seconds=round(time.monotonic() - begun, 4), png=order.pngs[0])

    return router
