"""`POST /generate`: images in the response."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from atelier_contracts.generate import GeneratedImage, GenerateRequest, GenerateResponse
from atelier_service.access_log import CLIENT_CLOSED_REQUEST
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from atelier_infer.api.content_negotiation import negotiate
from atelier_infer.generation import image_codec
from atelier_infer.generation.job import GenerationJob
from atelier_infer.generation.service import GenerationService, SubmitOptions, log_fields
from atelier_infer.problems import DOCUMENTED

IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]
"""The same key with the same request gives the same images, generated once."""

IMAGES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The image, with its metadata inside and in the headers. Several images are only available as JSON",
        "model": GenerateResponse,
        "content": {image_codec.PNG: {}, image_codec.WEBP: {}},
    }
}


def make_generate_router(service: GenerationService) -> APIRouter:
    router = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))])  # documents the authentication of the middleware

    @router.post("/generate", response_class=Response, responses=IMAGES | DOCUMENTED)
    async def generate(body: GenerateRequest, request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        """Without `version`, `alias`, `adapters` or `base` the champion generates, or the canary for its share."""
        offered = (image_codec.PNG, image_codec.WEBP, image_codec.JSON) if body.n == 1 else (image_codec.JSON,)
        media_type = negotiate(request.headers.get("accept", ""), offered)
        job = await service.submit(body, SubmitOptions(request.state.token.id, idempotency_key))
        request.state.log.update(log_fields(job))
        if not await service.wait(job, request):
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        request.state.log.update(log_fields(job))
        headers = image_codec.headers(job.metadata[0], job.warnings, job.alias)
        headers |= {"Server-Timing": job.server_timing(), "Vary": "Accept"}
        if media_type == image_codec.JSON:
            content = await run_in_threadpool(_as_json, job)
        elif media_type == image_codec.WEBP:
            content = await run_in_threadpool(image_codec.png_to_webp, job.pngs[0])
        else:
            content = job.pngs[0]
        return Response(content, media_type=media_type, headers=headers)

    return router


def _as_json(job: GenerationJob) -> bytes:
    images = [
        GeneratedImage(metadata=metadata, png=base64.b64encode(job.pngs[index]).decode())
        for index, metadata in enumerate(job.metadata)
    ]
    return GenerateResponse(images=images, alias=job.alias, warnings=job.warnings).model_dump_json().encode()
