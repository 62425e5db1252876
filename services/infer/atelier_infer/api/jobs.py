"""`/jobs`: images that are asked for now and fetched later, with their progress as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from atelier_contracts.generate import GenerateRequest, JobRequest, JobStatus
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from atelier_infer.api.content_negotiation import best_of
from atelier_infer.api.generate import Key
from atelier_infer.errors import UnknownJobError
from atelier_infer.generation import image_codec
from atelier_infer.generation.job import GenerationJob
from atelier_infer.generation.service import GenerationService, log_fields
from atelier_infer.generation.webhooks import WebhookSender
from atelier_infer.problems import DOCUMENTED

HEARTBEAT_S = 10.0

REVOKED_S = 1.0
"""How long a stream may go on after its token was revoked."""
"""A silent stream says so often that it is alive; proxies close silent ones."""

IMAGE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The image, with its text", "content": {image_codec.PNG: {}, image_codec.WEBP: {}}}
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": (
            "`status` (a JobStatus) first; then `step` {image, step, steps}, `preview` {image, step, webp: base64} and "
            "`image` {image, path}; `end` (a JobStatus) last"
        ),
        "content": {"text/event-stream": {}},
    }
}


def make_jobs_router(desk: GenerationService, callbacks: WebhookSender) -> APIRouter:
    """The routes, over the parts given."""
    router = APIRouter(prefix="/jobs", dependencies=[Depends(HTTPBearer(auto_error=False))])

    @router.post("", status_code=202, response_model=JobStatus, responses=DOCUMENTED)
    async def create(body: JobRequest, request: Request, response: Response, idempotency_key: Key = None) -> JobStatus:
        """Takes a request and answers at once; `Location` is where its status is."""
        target = callbacks.target(body.callback_url) if body.callback_url is not None else None
        wish = GenerateRequest.model_validate(body.model_dump(exclude={"callback_url"}))
        order = await desk.place(wish, request.state.token.id, key=idempotency_key, keep=True, target=target)
        request.state.log.update(log_fields(order))
        response.headers["Location"] = f"/jobs/{order.id}"
        return order.status()

    @router.get("/{job}", response_model=JobStatus, responses=DOCUMENTED)
    async def status(job: str, request: Request) -> JobStatus:
        """Position in the queue, steps, seconds left, and where the images are."""
        return desk.find(job, request.state.token.id).status()

    @router.get("/{job}/events", response_class=StreamingResponse, responses=EVENTS | DOCUMENTED)
    async def events(job: str, request: Request, previews: Annotated[bool, Query()] = True) -> StreamingResponse:
        """Progress until the end. Reading it again starts with the status as it is then."""
        order = desk.find(job, request.state.token.id)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        lines = _stream(order, previews, request.state.still_allowed)
        return StreamingResponse(lines, media_type="text/event-stream", headers=headers)

    @router.get("/{job}/images/{index}", response_class=Response, responses=IMAGE | DOCUMENTED)
    async def fetch(job: str, index: int, request: Request) -> Response:
        """One image, as PNG or WebP."""
        order = desk.find(job, request.state.token.id)
        if index not in order.pngs:
            ready = ", ".join(map(str, sorted(order.pngs))) or "none"
            raise UnknownJobError(f"job {job} has no image {index} yet; ready: {ready}; its events say when one is")
        media = best_of(request.headers.get("accept", ""), (image_codec.PNG, image_codec.WEBP))
        body = order.pngs[index]
        if media == image_codec.WEBP:
            body = await run_in_threadpool(image_codec.webp_bytes, body)
        return Response(body, media_type=media, headers=image_codec.headers(order.drawn[index], order.warnings, order.alias))

    @router.delete("/{job}", status_code=204, responses=DOCUMENTED)
    async def cancel(job: str, request: Request) -> None:
        """Ends it within one step, and forgets it; its callback is sent all the same."""
        desk.cancel(desk.find(job, request.state.token.id))

    return router


async def _stream(order: GenerationJob, previews: bool, allowed: Callable[[], bool]) -> AsyncIterator[str]:
    watcher, beat = order.watch(), time.monotonic()
    try:
        yield _event("status", order.status().model_dump())
        while order.ended_at is None or not watcher.empty():
            if not allowed():
                return
            try:
                name, data = await asyncio.wait_for(watcher.get(), REVOKED_S)
            except TimeoutError:
                if time.monotonic() - beat >= HEARTBEAT_S:
                    yield ": still there\n\n"
                    beat = time.monotonic()
                continue
            if name not in ("end", "preview") or (name == "preview" and previews):
                yield _event(name, data)
        yield _event("end", order.status().model_dump())
    finally:
        order.unwatch(watcher)


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
