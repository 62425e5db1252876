"""The four routes."""

from __future__ import annotations

from typing import Any

from atelier_contracts.generate import Drawn, GenerateRequest
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from atelier_infer import picture
from atelier_infer.answers import LoadedAdapter, LoadedBundle, Models, Served, Status
from atelier_infer.drawing import Drawing
from atelier_infer.engine import Engine
from atelier_infer.loader import Loader
from atelier_infer.plan import make_plan
from atelier_infer.problems import DOCUMENTED
from atelier_infer.requestlog import CLIENT_GONE
from atelier_infer.settings import Settings
from atelier_infer.versions import Versions
from atelier_infer.waiting import pixels_of

PNG: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture; its text chunk and headers say how it was drawn", "content": {"image/png": {}}}
}


def make_router(*, engine: Engine, versions: Versions, loader: Loader, settings: Settings) -> APIRouter:
    """The routes, over the parts given."""
    router = APIRouter()
    login = [Depends(HTTPBearer(auto_error=False))]  # for the OpenAPI document; the gate has looked already

    @router.get("/healthz")
    async def healthz() -> Status:
        """The process answers. No login."""
        return Status(status="alive")

    @router.get("/readyz", responses={503: {"model": Status}})
    async def readyz() -> Response:
        """Requests can be answered, be it with "no champion yet". No login."""
        if engine.draining or not versions.answered:
            status = Status(status="draining" if engine.draining else "starting")
            return JSONResponse(status.model_dump(), 503)
        return JSONResponse(Status(status="stale" if versions.stale else "ready").model_dump())

    @router.get("/models", dependencies=login, responses={401: DOCUMENTED[401]})
    async def models() -> Models:
        """What is loaded and which version each alias draws with."""
        view, serving, failures = versions.snapshot()
        adapters, bundles = loader.loaded()
        return Models(
            model=settings.model,
            scheduler=settings.scheduler,
            aliases={
                alias: Served(
                    target=target,
                    serving=serving[alias].number if alias in serving else None,
                    problem=str(failures[alias].error) if alias in failures else None,
                )
                for alias, target in (view.aliases if view else {}).items()
            },
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
            bundles=[
                LoadedBundle(bundle_digest=digest, base=bundle.manifest.base, native_size_px=bundle.manifest.native_size_px)
                for digest, bundle in bundles.items()
            ],
            requests=engine.admitted,
        )

    @router.post("/generate", dependencies=login, response_class=Response, responses=PNG | DOCUMENTED)
    async def generate(wish: GenerateRequest, request: Request) -> Response:
        """Draws one picture. Without `version`, `alias` or `base` the champion draws."""
        with engine.admit():
            version = versions.at_hand(wish)
            if version is None:
                version = await run_in_threadpool(versions.find, wish)
            plan, warnings = make_plan(wish, version.bundle, scheduler=settings.scheduler, max_side_px=settings.max_side_px)
            drawn = Drawn(
                model=settings.model,
                version=version.label,
                adapter_digest=version.adapter.digest if version.adapter else None,
                bundle_digest=version.bundle.digest,
                prompt=wish.prompt,
                negative_prompt=wish.negative_prompt,
                steps=plan.steps,
                guidance_scale=plan.guidance_scale,
                seed=plan.seed,
                width=plan.width,
                height=plan.height,
                scheduler=plan.scheduler,
            )
            request.state.log.update(drawn.model_dump(exclude={"prompt", "negative_prompt"}))
            pixels = await pixels_of(engine.submit(Drawing(version.bundle, version.adapter, plan)), request)
            if pixels is None:
                return Response(status_code=CLIENT_GONE)
            body = await run_in_threadpool(picture.png_bytes, pixels, drawn)
        return Response(body, media_type="image/png", headers=picture.headers(drawn, warnings))

    return router
