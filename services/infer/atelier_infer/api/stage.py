"""`POST /stage`: checks a version and generates sample images before it is promoted, without serving it."""

from __future__ import annotations

import time
from functools import partial

from atelier_contracts.generate import GenerateRequest
from atelier_contracts.stage import StagedImage, StageImage, StageRequest, StageResponse
from atelier_contracts.tokens import Role
from atelier_service.access_log import CLIENT_CLOSED_REQUEST
from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from atelier_infer.artifacts.version_loader import Version, VersionLoader
from atelier_infer.engine.denoising_step import probe
from atelier_infer.engine.engine import Engine
from atelier_infer.errors import RoleError, UnknownModelError
from atelier_infer.generation.model_selection import ModelSelection
from atelier_infer.generation.service import GenerationService, SubmitOptions
from atelier_infer.problems import DOCUMENTED
from atelier_infer.settings import Settings

REQUIRED_ROLE = Role.promoter
"""Only who may promote a version may see it before its promotion."""


def make_stage_router(*, service: GenerationService, engine: Engine, loader: VersionLoader, settings: Settings) -> APIRouter:
    router = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))])  # documents the authentication of the middleware

    @router.post("/stage", response_model=StageResponse, responses=DOCUMENTED)
    async def stage(body: StageRequest, request: Request) -> StageResponse | Response:
        """Loads and checks a version as serving would, runs one step, and generates the requested images."""
        token = request.state.token
        if token.role < REQUIRED_ROLE:
            raise RoleError(f"staging requires the role {REQUIRED_ROLE.name} or higher; {token.id} has {token.role.name}")
        if body.model not in (None, settings.model):
            raise UnknownModelError(
                f"this service serves {settings.model!r}; received {body.model!r}: send the request to the infer of that model"
            )
        started = time.monotonic()
        # a promotion gets memory whatever requests use, because a roll back is needed most under load
        version = await run_in_threadpool(
            partial(loader.load, body.version, to_serve=True, promoted_digest=body.adapter_digest)
        )
        assert version.adapter is not None
        loaded = time.monotonic()
        await run_in_threadpool(engine.run_between_steps, partial(probe, version.bundle, version.adapter))
        stepped = time.monotonic()
        images = []
        for image in body.images:
            if (staged := await _generate(image, version, request)) is None:
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            images.append(staged)
        return StageResponse(
            model=settings.model,
            version=body.version,
            adapter_digest=version.adapter.digest,
            bundle_digest=version.bundle.digest,
            load_seconds=round(loaded - started, 4),
            step_seconds=round(stepped - loaded, 4),
            images=images,
        )

    async def _generate(image: StageImage, version: Version, request: Request) -> StagedImage | None:
        """None if the client disconnected."""
        started = time.monotonic()
        generate = GenerateRequest.model_validate(
            image.model_dump(exclude={"size"}) | {"width": image.size, "height": image.size, "version": version.number}
        )
        options = SubmitOptions(request.state.token.id, selection=ModelSelection((version,), (1.0,)))
        job = await service.submit(generate, options)
        if not await service.wait(job, request):
            return None
        # model_construct, because Base64Bytes would decode the PNG
        return StagedImage.model_construct(request=image, seconds=round(time.monotonic() - started, 4), png=job.pngs[0])

    return router
