"""`/jobs`: images generated asynchronously, with progress as server-sent events."""

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

from atelier_infer.api.content_negotiation import negotiate
from atelier_infer.api.generate import IdempotencyKey
from atelier_infer.errors import UnknownJobError
from atelier_infer.generation import image_codec
from atelier_infer.generation.job import GenerationJob
from atelier_infer.generation.service import GenerationService, SubmitOptions, log_fields
from atelier_infer.generation.webhooks import WebhookSender
from atelier_infer.problems import DOCUMENTED

HEARTBEAT_S = 10.0
"""Interval of comments in a stream without events; proxies close idle connections."""

TOKEN_CHECK_S = 1.0
"""A stream ends this long after its token was revoked."""

IMAGE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The image, with its metadata inside", "content": {image_codec.PNG: {}, image_codec.WEBP: {}}}
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


def make_jobs_router(service: GenerationService, webhooks: WebhookSender) -> APIRouter:
    router = APIRouter(prefix="/jobs", dependencies=[Depends(HTTPBearer(auto_error=False))])

    @router.post("", status_code=202, response_model=JobStatus, responses=DOCUMENTED)
    async def create(
        body: JobRequest, request: Request, response: Response, idempotency_key: IdempotencyKey = None
    ) -> JobStatus:
        """Responds at once; `Location` is the path of the job."""
        webhook = webhooks.target(body.webhook_url) if body.webhook_url is not None else None
        generate = GenerateRequest.model_validate(body.model_dump(exclude={"webhook_url"}))
        options = SubmitOptions(request.state.token.id, idempotency_key, keep=True, webhook=webhook)
        job = await service.submit(generate, options)
        request.state.log.update(log_fields(job))
        response.headers["Location"] = f"/jobs/{job.id}"
        return job.status()

    @router.get("/{id}", response_model=JobStatus, responses=DOCUMENTED)
    async def status(id: str, request: Request) -> JobStatus:
        """State, queue position, steps, seconds left, and the paths of the images."""
        return service.jobs.find(id, request.state.token.id).status()

    @router.get("/{id}/events", response_class=StreamingResponse, responses=EVENTS | DOCUMENTED)
    async def events(id: str, request: Request, previews: Annotated[bool, Query()] = True) -> StreamingResponse:
        """Progress until the job ends. A new connection starts with the current status."""
        job = service.jobs.find(id, request.state.token.id)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        stream = _stream(job, previews, request.state.still_allowed)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    @router.get("/{id}/images/{index}", response_class=Response, responses=IMAGE | DOCUMENTED)
    async def image(id: str, index: int, request: Request) -> Response:
        """One image as PNG or WebP."""
        job = service.jobs.find(id, request.state.token.id)
        if index not in job.pngs:
            ready = ", ".join(map(str, sorted(job.pngs))) or "none"
            raise UnknownJobError(f"job {id} has no image {index} yet; ready: {ready}; its events report when one is")
        media_type = negotiate(request.headers.get("accept", ""), (image_codec.PNG, image_codec.WEBP))
        content = job.pngs[index]
        if media_type == image_codec.WEBP:
            content = await run_in_threadpool(image_codec.png_to_webp, content)
        headers = image_codec.headers(job.metadata[index], job.warnings, job.alias)
        return Response(content, media_type=media_type, headers=headers)

    @router.delete("/{id}", status_code=204, responses=DOCUMENTED)
    async def cancel(id: str, request: Request) -> None:
        """Ends the job within one step and removes it; its webhook is sent all the same."""
        service.cancel(service.jobs.find(id, request.state.token.id))

    return router


async def _stream(job: GenerationJob, previews: bool, still_allowed: Callable[[], bool]) -> AsyncIterator[str]:
    subscription, last_sent = job.events.subscribe(), time.monotonic()
    try:
        yield _event("status", job.status().model_dump())
        while job.ended_at is None or not subscription.empty():
            if not still_allowed():
                return
            try:
                name, data = await asyncio.wait_for(subscription.get(), TOKEN_CHECK_S)
            except TimeoutError:
                if time.monotonic() - last_sent >= HEARTBEAT_S:
                    yield ": heartbeat\n\n"
                    last_sent = time.monotonic()
                continue
            if name not in ("end", "preview") or (name == "preview" and previews):
                yield _event(name, data)
        yield _event("end", job.status().model_dump())
    finally:
        job.events.unsubscribe(subscription)


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
