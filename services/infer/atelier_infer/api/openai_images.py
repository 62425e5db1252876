"""`POST /v1/images/generations`, as the stock `openai` client sends it."""

from __future__ import annotations

import base64
import re
import time
from typing import Literal

from atelier_contracts.generate import MAX_IMAGES, GenerateRequest, SchedulerName
from atelier_contracts.identifiers import ALIAS_NAME
from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from atelier_infer.api.access_log import CLIENT_GONE
from atelier_infer.errors import UnknownModelError
from atelier_infer.generation import image_codec
from atelier_infer.generation.service import GenerationService, log_fields
from atelier_infer.problems import DOCUMENTED

_MODEL = re.compile(rf"(?P<name>[^:@]+)(?::(?P<version>[1-9]\d{{0,9}}|base)|@(?P<alias>{ALIAS_NAME.strip('^$')}))?")


class ImagesRequest(BaseModel):
    """The convention's fields that mean something here; any other value of them, and any other field, is refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    prompt: str = Field(min_length=1, max_length=2000)
    model: str | None = Field(
        None, max_length=600, description="NAME draws with the champion; NAME:7, NAME:base and NAME@alias with others"
    )
    n: int | None = Field(None, ge=1, le=MAX_IMAGES)
    size: str | None = Field(None, pattern=r"^(auto|\d{1,5}x\d{1,5})$", description="WIDTHxHEIGHT; auto is the base's own")
    response_format: Literal["b64_json"] | None = Field(None, description="images are in the answer, not at addresses")
    output_format: Literal["png", "webp"] | None = None
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    stream: Literal[False] | None = None
    user: str | None = Field(None, max_length=2000)
    negative_prompt: str = Field("", max_length=2000)
    steps: int = Field(25, ge=1, le=150)
    guidance_scale: float = Field(5.0, ge=0.0, le=30.0)
    scheduler: SchedulerName | None = None
    seed: int | None = Field(None, ge=0, lt=2**32)
    scale: float = Field(1.0, ge=-4.0, le=4.0)


class ImageData(BaseModel):
    """One image."""

    b64_json: str


class ImagesAnswer(BaseModel):
    """What the client reads."""

    created: int = Field(description="Unix seconds")
    data: list[ImageData]
    output_format: str
    size: str


def make_images_router(desk: GenerationService, model: str) -> APIRouter:
    """The route, over the desk."""
    router = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))])

    @router.post("/v1/images/generations", response_model=ImagesAnswer, responses=DOCUMENTED)
    async def generations(body: ImagesRequest, request: Request, response: Response) -> ImagesAnswer | Response:
        """Draws. `seed`, `steps`, `guidance_scale`, `negative_prompt`, `scheduler` and `scale` go into `extra_body`."""
        order = await desk.place(as_wish(body, model), request.state.token.id)
        request.state.log.update(log_fields(order))
        if not await desk.wait(order, request):
            return Response(status_code=CLIENT_GONE)
        told = image_codec.headers(order.drawn[0], order.warnings, order.alias)
        response.headers.update(told | {"Server-Timing": order.timing()})
        form = body.output_format or "png"
        pngs = [order.pngs[index] for index in range(len(order.drawn))]
        files = pngs if form == "png" else [await run_in_threadpool(image_codec.webp_bytes, png) for png in pngs]
        return ImagesAnswer(
            created=int(time.time()),
            data=[ImageData(b64_json=base64.b64encode(file).decode()) for file in files],
            output_format=form,
            size=f"{order.drawn[0].width}x{order.drawn[0].height}",
        )

    return router


def as_wish(body: ImagesRequest, model: str) -> GenerateRequest:
    """The same request in our words.

    Raises:
        UnknownModelError: another model is named.
        RequestValidationError: a value breaks a rule of requests.
    """
    found = _MODEL.fullmatch(model if body.model is None else body.model)
    if found is None or found["name"] != model:
        raise UnknownModelError(
            f"this service draws with {model!r}; received {body.model!r}; name {model}, {model}:VERSION, {model}:base or "
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
        "version": int(found["version"]) if found["version"] not in (None, "base") else None,
        "alias": found["alias"],
        "base": found["version"] == "base",
        "scale": body.scale,
    }
    try:
        return GenerateRequest.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError([fault | {"loc": ("body", *fault["loc"])} for fault in error.errors()]) from error
