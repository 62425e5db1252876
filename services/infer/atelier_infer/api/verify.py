"""`POST /verify`: whether an image is what its own text says, by drawing it again."""

from __future__ import annotations

from functools import partial
from io import BytesIO

import numpy as np
from atelier_contracts.generate import AdapterChoice, Drawn, DrawnAdapter, GenerateRequest, Verified
from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPBearer
from PIL import Image
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from atelier_infer.api.access_log import CLIENT_GONE
from atelier_infer.artifacts.version_loader import VersionLoader
from atelier_infer.errors import ChangedError, ImageError, UnknownModelError
from atelier_infer.generation import image_codec
from atelier_infer.generation.model_selection import ModelSelection, ModelSelector
from atelier_infer.generation.service import GenerationService, log_fields
from atelier_infer.problems import DOCUMENTED
from atelier_infer.settings import Settings

TOLERANCE = 1
"""Levels of 255 by which company in a batch may change a value."""


def make_verifying_router(
    *, desk: GenerationService, chooser: ModelSelector, loader: VersionLoader, settings: Settings
) -> APIRouter:
    """The route, over the parts given."""
    router = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))])
    body = {"requestBody": {"required": True, "content": {image_codec.PNG: {}, image_codec.WEBP: {}}}}

    @router.post("/verify", response_model=Verified, responses=DOCUMENTED, openapi_extra=body)
    async def verify(request: Request) -> Verified | Response:
        """Takes a PNG or WebP as it was downloaded, draws it again from its own text, and compares."""
        content = await request.body()
        drawn, pixels = await run_in_threadpool(image_codec.read_image, content, settings.max_side_px)
        if drawn.adapter_digest and not drawn.adapters and drawn.version.isdigit():  # drawn before there were blends
            drawn.adapters = [DrawnAdapter(version=int(drawn.version), digest=drawn.adapter_digest, weight=1.0)]
        if drawn.model != settings.model:
            raise UnknownModelError(f"this service draws with {settings.model!r}; the image was drawn with {drawn.model!r}")
        if pixels.shape[:2] != (drawn.height, drawn.width):
            raise ImageError(f"its text says {drawn.width} x {drawn.height} px; the image has {pixels.shape[1::-1]}")
        wish = as_wish(drawn)
        order = await desk.place(wish, request.state.token.id, choose=partial(_chosen, wish, drawn))
        request.state.log.update(log_fields(order))
        if not await desk.wait(order, request):
            return Response(status_code=CLIENT_GONE)
        again = np.asarray(Image.open(BytesIO(order.pngs[0])))
        apart = np.abs(again.astype(int) - pixels)
        return Verified(
            same=bool(apart.max() <= TOLERANCE),
            max_difference=int(apart.max()),
            differing=round(float((apart > 0).mean()), 6),
            drawn=drawn,
        )

    def _chosen(wish: GenerateRequest, drawn: Drawn) -> ModelSelection:
        if not wish.adapters:
            return ModelSelection((loader.base(drawn.bundle_digest),), (1.0,))
        chosen = chooser.find(wish)
        digests = [version.adapter.digest if version.adapter else "" for version in chosen.versions]
        for was, now in zip(drawn.adapters, digests, strict=True):
            if was.digest != now:
                raise ChangedError(
                    f"the image was drawn with adapter {was.digest} as version {was.version}; that version is now {now}; "
                    "the model was made anew since, so it cannot be drawn again"
                )
        return chosen

    return router


def as_wish(drawn: Drawn) -> GenerateRequest:
    """The request that draws it again.

    Raises:
        ImageError: its text breaks a rule of requests.
    """
    # a weight has the request's scale in it, so it may exceed what one field may hold; a power of two divides without loss
    scale = 4.0 if any(abs(one.weight) > 4 for one in drawn.adapters) else 1.0
    try:
        return GenerateRequest(
            **drawn.model_dump(
                include={"prompt", "negative_prompt", "steps", "guidance_scale", "guidance_until", "seed", "width", "height"}
            ),
            scheduler=drawn.scheduler,  # type: ignore[arg-type]  # checked there
            adapters=[AdapterChoice(version=one.version, weight=one.weight / scale) for one in drawn.adapters],
            scale=scale,
        )
    except ValidationError as error:
        raise ImageError(f"the image's text breaks a rule of requests: {error.errors()[0]['msg']}") from error
