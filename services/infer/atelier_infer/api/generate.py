"""`POST /generate`: images in the answer itself."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from atelier_contracts.generate import GenerateRequest, ImageInJson, Images
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from atelier_infer.api.access_log import CLIENT_GONE
from atelier_infer.api.content_negotiation import best_of
from atelier_infer.generation import image_codec
from atelier_infer.generation.job import GenerationJob
from atelier_infer.generation.service import GenerationService, log_fields
from atelier_infer.problems import DOCUMENTED

Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]
"""The same key with the same request gives the same images, drawn once."""

IMAGES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The image; its text and the headers say how it was drawn. Several images come as JSON alone",
        "model": Images,
        "content": {image_codec.PNG: {}, image_codec.WEBP: {}},
    }
}


def make_generating_router(desk: GenerationService) -> APIRouter:
    """The route, over the desk."""
    router = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))])  # for the OpenAPI document; the gate has looked

    @router.post("/generate", response_class=Response, responses=IMAGES | DOCUMENTED)
    async def generate(wish: GenerateRequest, request: Request, idempotency_key: Key = None) -> Response:
        """Draws. Without `version`, `alias`, `adapters` or `base` the champion does, or for its share the canary."""
        offered = (image_codec.PNG, image_codec.WEBP, image_codec.JSON) if wish.n == 1 else (image_codec.JSON,)
        media = best_of(request.headers.get("accept", ""), offered)
        order = await desk.place(wish, request.state.token.id, key=idempotency_key)
        request.state.log.update(log_fields(order))
        if not await desk.wait(order, request):
            return Response(status_code=CLIENT_GONE)
        request.state.log.update(log_fields(order))
        return await answer_with(order, media)

    return router


async def answer_with(order: GenerationJob, media: str) -> Response:
    """A finished order as image or JSON."""
    told = image_codec.headers(order.drawn[0], order.warnings, order.alias)
    headers = told | {"Server-Timing": order.timing(), "Vary": "Accept"}
    if media == image_codec.JSON:
        return Response(await run_in_threadpool(as_json, order), media_type=media, headers=headers)
    body = order.pngs[0]
    if media == image_codec.WEBP:
        body = await run_in_threadpool(image_codec.webp_bytes, body)
    return Response(body, media_type=media, headers=headers)


def as_json(order: GenerationJob) -> bytes:
    """Every image, base64."""
    found = [
        ImageInJson(drawn=drawn, png=base64.b64encode(order.pngs[index]).decode()) for index, drawn in enumerate(order.drawn)
    ]
    return Images(images=found, alias=order.alias, warnings=order.warnings).model_dump_json().encode()
