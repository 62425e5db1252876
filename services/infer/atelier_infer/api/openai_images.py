"""`POST /v1/images/generations`, as the stock `openai` client sends it."""

from __future__ import annotations

import base64
import re
import time
from typing import Literal

from atelier_contracts.generate import MAX_IMAGES, GenerateRequest
from atelier_contracts.identifiers import ALIAS_NAME
from atelier_contracts.styles import GuidanceScale, Scale, SchedulerName, Steps
from atelier_service.access_log import CLIENT_CLOSED_REQUEST
from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from atelier_infer.errors import UnknownModelError
from atelier_infer.generation import image_codec
from atelier_infer.generation.service import GenerationService, SubmitOptions, log_fields
from atelier_infer.problems import DOCUMENTED

_MODEL = re.compile(rf"(?P<name>[^:@]+)(?::(?P<version>[1-9]\d{{0,9}}|base)|@(?P<alias>{ALIAS_NAME.strip('^$')}))?")


class ImagesRequest(BaseModel):
    """The fields of OpenAI's API that are supported; other values and other fields are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    prompt: str = Field(min_length=1, max_length=2000)
    model: str | None = Field(
        None, max_length=600, description="NAME for the champion; NAME:7, NAME:base and NAME@alias for others"
    )
    n: int | None = Field(None, ge=1, le=MAX_IMAGES)
    size: str | None = Field(None, pattern=r"^(auto|\d{1,5}x\d{1,5})$", description="WIDTHxHEIGHT; auto is the native size")
    response_format: Literal["b64_json"] | None = Field(None, description="images are returned in the response, not as URLs")
    output_format: Literal["png", "webp"] | None = None
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    stream: Literal[False] | None = None
    user: str | None = Field(None, max_length=2000)
    negative_prompt: str = Field("", max_length=2000)
    steps: Steps | None = None
    guidance_scale: GuidanceScale | None = None
    scheduler: SchedulerName | None = None
    seed: int | None = Field(None, ge=0, lt=2**32)
    scale: Scale | None = None


class ImageData(BaseModel):
    b64_json: str


class ImagesResponse(BaseModel):
    created: int = Field(description="Unix seconds")
    data: list[ImageData]
    output_format: str
    size: str


def make_openai_router(service: GenerationService, model: str) -> APIRouter:
    router = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))])

    @router.post("/v1/images/generations", response_model=ImagesResponse, responses=DOCUMENTED)
    async def generations(body: ImagesRequest, request: Request, response: Response) -> ImagesResponse | Response:
        """`seed`, `steps`, `guidance_scale`, `negative_prompt`, `scheduler` and `scale` go into the client's `extra_body`."""
        job = await service.submit(to_generate_request(body, model), SubmitOptions(request.state.token.id))
        request.state.log.update(log_fields(job))
        if not await service.wait(job, request):
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        response.headers.update(image_codec.headers(job.metadata[0], job.warnings, job.alias))
        response.headers["Server-Timing"] = job.server_timing()
        images = [job.pngs[index] for index in range(len(job.metadata))]
        if body.output_format == "webp":
            images = [await run_in_threadpool(image_codec.png_to_webp, png) for png in images]
        return ImagesResponse(
            created=int(time.time()),
            data=[ImageData(b64_json=base64.b64encode(image).decode()) for image in images],
            output_format=body.output_format or "png",
            size=f"{job.metadata[0].width}x{job.metadata[0].height}",
        )

    return router


def to_generate_request(body: ImagesRequest, model: str) -> GenerateRequest:
    """Translates the fields.

    Raises:
        UnknownModelError: another model is named.
        RequestValidationError: a value breaks a rule of requests.
    """
    match = _MODEL.fullmatch(model if body.model is None else body.model)
    if match is None or match["name"] != model:
        raise UnknownModelError(
            f"this service serves {model!r}; received {body.model!r}; name {model}, {model}:VERSION, {model}:base or "
            f"{model}@ALIAS"
        )
    width, height = (int(side) for side in body.size.split("x")) if body.size and body.size != "auto" else (None, None)
    fields = {
        "prompt": body.prompt,
        "negative_prompt": body.negative_prompt,
        "steps": body.steps,
        "guidance_scale": body.guidance_scale,
        "scheduler": body.scheduler,
        "seed": body.seed,
        "n": body.n or 1,
        "width": width,
        "height": height,
        "version": int(match["version"]) if match["version"] not in (None, "base") else None,
        "alias": match["alias"],
        "base": match["version"] == "base",
        "scale": body.scale,
    }
    try:
        return GenerateRequest.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError([detail | {"loc": ("body", *detail["loc"])} for detail in error.errors()]) from error
