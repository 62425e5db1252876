"""`POST /verify`: generates an image again from its metadata and compares."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from atelier_contracts.generate import AdapterChoice, AppliedAdapter, GenerateRequest, GenerationMetadata, VerifyResponse
from atelier_service.access_log import CLIENT_CLOSED_REQUEST
from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPBearer
from PIL import Image
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from atelier_infer.errors import InvalidImageError, UnknownModelError
from atelier_infer.generation import image_codec
from atelier_infer.generation.service import GenerationService, SubmitOptions, log_fields
from atelier_infer.problems import DOCUMENTED
from atelier_infer.settings import Settings

TOLERANCE = 1
"""Levels of 255 by which other images in the batch may change a value."""


def make_verify_router(*, service: GenerationService, settings: Settings) -> APIRouter:
    router = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))])
    body = {"requestBody": {"required": True, "content": {image_codec.PNG: {}, image_codec.WEBP: {}}}}

    @router.post("/verify", response_model=VerifyResponse, responses=DOCUMENTED, openapi_extra=body)
    async def verify(request: Request) -> VerifyResponse | Response:
        """Takes a PNG or WebP as it was downloaded."""
        content = await request.body()
        metadata, pixels = await run_in_threadpool(image_codec.read_image, content, settings.max_side_px)
        if metadata.adapter_digest and not metadata.adapters and metadata.version.isdigit():  # made before there were blends
            metadata.adapters = [AppliedAdapter(version=int(metadata.version), digest=metadata.adapter_digest, weight=1.0)]
        if metadata.model != settings.model:
            raise UnknownModelError(f"this service serves {settings.model!r}; the image was made with {metadata.model!r}")
        if pixels.shape[:2] != (metadata.height, metadata.width):
            height, width = pixels.shape[:2]
            raise InvalidImageError(
                f"the image must have the size in its metadata, {metadata.width} x {metadata.height} px; received {width} x "
                f"{height}"
            )
        job = await service.submit(to_generate_request(metadata), SubmitOptions(request.state.token.id, recorded=metadata))
        request.state.log.update(log_fields(job))
        if not await service.wait(job, request):
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        again = np.asarray(Image.open(BytesIO(job.pngs[0])))
        difference = np.abs(again.astype(int) - pixels)
        return VerifyResponse(
            matches=bool(difference.max() <= TOLERANCE),
            max_difference=int(difference.max()),
            differing_fraction=round(float((difference > 0).mean()), 6),
            metadata=metadata,
        )

    return router


def to_generate_request(metadata: GenerationMetadata) -> GenerateRequest:
    """The request that makes the image again.

    Raises:
        InvalidImageError: the metadata breaks a rule of requests.
    """
    # a weight includes the request's scale, so it may exceed the limit of one field; dividing by a power of two is exact
    scale = 4.0 if any(abs(adapter.weight) > 4 for adapter in metadata.adapters) else 1.0
    fields = {"prompt", "negative_prompt", "steps", "guidance_scale", "guidance_until", "seed", "width", "height"}
    try:
        return GenerateRequest(
            **metadata.model_dump(include=fields),
            scheduler=metadata.scheduler,  # type: ignore[arg-type]  # validated there
            adapters=[AdapterChoice(version=adapter.version, weight=adapter.weight / scale) for adapter in metadata.adapters],
            scale=scale,
        )
    except ValidationError as error:
        raise InvalidImageError(f"the metadata breaks a rule of requests: {error.errors()[0]['msg']}") from error
