"""`/jobs`: images generated asynchronously, with progress as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from atelier_contracts.generate import GenerateRequest, JobRequest, JobStatus
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.security import HTTPBearer
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from atelier_infer.api.content_negotiation import negotiate
from atelier_infer.api.generate import IdempotencyKey
from atelier_infer.errors import UnknownJobError
from atelier_infer.generation import image_codec
from atelier_infer.generation.job import GenerationJob
from atelier_infer.generation.service import GenerationService, SubmitOptions, log_fields
from atelier_infer.generation.webhooks import WebhookSender
from atelier_infer.problems import DOCUMENTED

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

    def find(id: str, request: Request) -> GenerationJob:
        return service.jobs.find(id, request.state.token.id)

    @router.get("/{id}/events", response_class=EventSourceResponse, responses=EVENTS | DOCUMENTED)
    async def events(
        request: Request,
        previews: Annotated[bool, Query()] = True,
        job: GenerationJob = Depends(find),  # noqa: B008  annotations cannot name a local function
    ) -> AsyncIterator[ServerSentEvent]:
        """Progress until the job ends. A new connection starts with the current status."""
        async for event in _stream(job, previews, request.state.token_is_valid):
            yield event

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


async def _stream(job: GenerationJob, previews: bool, token_is_valid: Callable[[], bool]) -> AsyncIterator[ServerSentEvent]:
    subscription = job.events.subscribe()
    try:
        yield ServerSentEvent(event="status", data=job.status())
        while job.ended_at is None or not subscription.empty():
            if not token_is_valid():
                return
            try:
                name, data = await asyncio.wait_for(subscription.get(), TOKEN_CHECK_S)
            except TimeoutError:
                continue
            if name not in ("end", "preview") or (name == "preview" and previews):
                yield ServerSentEvent(event=name, data=data)
        yield ServerSentEvent(event="end", data=job.status())
    finally:
        job.events.unsubscribe(subscription)
