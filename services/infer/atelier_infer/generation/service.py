"""Turns requests into jobs: admission, model selection, canary assignment, and submission to the engine."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from atelier_contracts.generate import GenerateRequest, GenerationMetadata
from atelier_contracts.styles import RecordedEdits
from atelier_service.webhook_hosts import WebhookTarget
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from atelier_infer.aliases.alias_tracker import AliasTracker
from atelier_infer.engine.denoising_state import DenoisingState
from atelier_infer.engine.engine import Engine
from atelier_infer.errors import GenerationError, InferError, RequestError
from atelier_infer.generation.canary import Canary, traffic_bucket
from atelier_infer.generation.job import GenerationJob, ImageOutcome
from atelier_infer.generation.job_store import JobStore
from atelier_infer.generation.model_selection import ModelSelection, ModelSelector, names_no_version
from atelier_infer.generation.recommended_values import complete
from atelier_infer.generation.sampling_params import SamplingRules, with_seed
from atelier_infer.generation.webhooks import Webhook, WebhookSender
from atelier_infer.metrics import Metrics

log = logging.getLogger(__name__)

DISCONNECT_POLL_S = 0.1
"""How often a waiting request checks whether its client has disconnected."""

MAX_TYPICAL_GUIDANCE = 15.0
"""Invalid images count against a version only up to this guidance, at native size, with a typical scale, not in a blend."""


@dataclass(frozen=True)
class SubmitOptions:
    """How a request is submitted.

    Attributes:
        token_id: of the sender.
        key: an idempotency key; the same key with the same request gives the same job.
        keep: whether the job can be found after its end.
        selection: generates with this; by default the request names it.
        recorded: generates with what this metadata names, if it still has the recorded digests.
        webhook: receives the job's status when it has ended.
    """

    token_id: str
    key: str | None = None
    keep: bool = False
    selection: ModelSelection | None = None
    recorded: GenerationMetadata | None = None
    webhook: WebhookTarget | None = None


class GenerationService:
    """Lives on the event loop's thread."""

    def __init__(
        self,
        *,
        model: str,
        engine: Engine,
        tracker: AliasTracker,
        selector: ModelSelector,
        rules: SamplingRules,
        jobs: JobStore,
        webhooks: WebhookSender,
        metrics: Metrics,
        canary: Canary | None = None,
    ) -> None:
        self._model, self._engine, self._tracker, self._selector, self._rules = model, engine, tracker, selector, rules
        self._canary, self._webhooks, self._metrics, self.jobs = canary, webhooks, metrics, jobs
        self._waiters: dict[str, int] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def submit(self, request: GenerateRequest, options: SubmitOptions) -> GenerationJob:
        """Starts a job, or returns the one of an equal request with the same idempotency key.

        Raises:
            IdempotencyConflictError: the key was used with another request.
            InferError: the request cannot be served.
        """
        self.jobs.evict()
        if options.key is None:
            return await self._start(request, options)
        url = options.webhook.url if options.webhook else None
        fingerprint = hashlib.sha256(f"{options.keep} {url} {request.model_dump_json()}".encode()).hexdigest()
        submission = self.jobs.submission(options.token_id, options.key, fingerprint)
        if submission is None:
            submission = asyncio.create_task(self._start(request, options))
            self.jobs.add_submission(options.token_id, options.key, fingerprint, submission)
        return await asyncio.shield(submission)  # a client that disconnects leaves the job to the next equal request

    async def wait(self, job: GenerationJob, request: Request) -> bool:
        """Waits for the end. False if the client disconnected; the job is then cancelled unless another client waits for it.

        Raises:
            Exception: the job's error.
        """
        self._waiters[job.id] = self._waiters.get(job.id, 0) + 1
        task = self._tasks.get(job.id)
        try:
            while job.ended_at is None and task:
                await asyncio.wait({task}, timeout=DISCONNECT_POLL_S)
                if job.ended_at is None and await request.is_disconnected():
                    return False
            if job.error:
                raise job.error.with_traceback(None)
            return True
        finally:
            self._waiters[job.id] -= 1
            if not self._waiters[job.id]:
                del self._waiters[job.id]
                job.cancel()

    def cancel(self, job: GenerationJob) -> None:
        """Ends the job and removes it."""
        job.cancel()
        self.jobs.remove(job)

    async def wait_for_all(self) -> None:
        """Waits until every job has ended; once the engine has stopped, that is at once."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _start(self, request: GenerateRequest, options: SubmitOptions) -> GenerationJob:
        with ExitStack() as stack:
            stack.enter_context(self._engine.admit(request.n))
            seeded = with_seed(request)
            selection = await self._select(seeded, options)
            stack.enter_context(self._selector.pinned(selection))
            job = GenerationJob(self._engine, options.token_id)
            job.webhook = Webhook(options.webhook, f"msg_{job.id}") if options.webhook else None
            # an edit of the style from here on does not change the job
            edits = None if options.selection or options.recorded else self._tracker.style_edits
            # prepared for the champion first: what it refuses is refused, whoever would serve the request
            self._prepare(job, seeded, selection, edits)
            fallback = None
            if self._canary and not (options.selection or options.recorded) and names_no_version(request):
                bucket = traffic_bucket(seeded if options.key is None else request, token_id=options.token_id, key=options.key)
                if canary := self._assign(self._canary, bucket, partial(self._prepare, job, seeded, edits=edits)):
                    stack.enter_context(self._selector.pinned(canary))
                    fallback = selection if canary.numbers != selection.numbers else None
                    selection = canary
            resources = stack.pop_all()
        if options.keep or options.key is not None:
            self.jobs.add(job)
        prepare_fallback = partial(self._prepare, job, seeded, fallback, edits) if fallback else None
        self._tasks[job.id] = asyncio.create_task(self._run(job, (selection, fallback), prepare_fallback, resources))
        return job

    async def _select(self, request: GenerateRequest, options: SubmitOptions) -> ModelSelection:
        if options.selection:
            return options.selection
        if options.recorded:
            return await run_in_threadpool(self._selector.find_recorded, request, options.recorded)
        return await self._selector.select(request)

    def _assign(self, canary: Canary, bucket: float, prepare: Callable[[ModelSelection], None]) -> ModelSelection | None:
        """Prepares a job for the canary and returns its selection; None if the champion serves the request."""
        assignment, version = canary.assign(bucket)
        selection = ModelSelection((version,), (1.0,), canary.alias) if version else None
        if selection:
            try:
                prepare(selection)
            except RequestError:
                assignment, selection = "canary_incompatible", None
        self._metrics.canary_assignment(assignment)
        return selection

    def _prepare(
        self, job: GenerationJob, request: GenerateRequest, selection: ModelSelection, edits: RecordedEdits | None
    ) -> None:
        """Sets what the job generates next; `edits` are those of the model's style, None for no recommended values.

        Raises:
            RequestError: the request breaks a rule of the service or of the selected bundle.
        """
        completed = complete(request, selection.versions, edits)
        params, warnings = self._rules.apply(completed.request, selection.bundle)
        scaled = selection.scaled(completed.request.scale)
        states = [DenoisingState(selection.bundle, scaled.adapters, each) for each in params]
        metadata = [scaled.metadata(self._model, completed, each) for each in params]
        job.prepare(selection.alias, states, metadata, [*completed.warnings, *warnings])

    async def _run(
        self,
        job: GenerationJob,
        selections: tuple[ModelSelection, ModelSelection | None],
        prepare_fallback: Callable[[], None] | None,
        resources: ExitStack,
    ) -> None:
        """Generates with the first selection, and with the second if the first failed; then sends the webhook."""
        selection, fallback = selections
        with resources:
            try:
                self._report(selection, job.metadata[0], await job.attempt())
                if fallback and prepare_fallback and isinstance(job.error, GenerationError) and not job.cancelled:
                    self._metrics.canary_fallback()
                    prepare_fallback()
                    self._report(fallback, job.metadata[0], await job.attempt())
            except Exception as error:  # noqa: BLE001  the waiting request raises it
                job.error = error
            finally:
                job.finish()
                self._tasks.pop(job.id, None)
        if job.error and not isinstance(job.error, InferError):
            log.error("unexpected error", exc_info=job.error)
        if job.error:  # its frames would keep the latents in memory
            job.error = _without_frames(job.error)
        if job.webhook:
            self._webhooks.send(job.webhook, job.status().model_dump_json().encode())

    def _report(self, selection: ModelSelection, metadata: GenerationMetadata, outcomes: list[ImageOutcome]) -> None:
        """Counts the outcomes, and reports those that say something about the version to the tracker."""
        native = {selection.bundle.manifest.native_size_px} == {metadata.width, metadata.height}
        typical = _is_typical_scale(metadata) and native and metadata.guidance_scale <= MAX_TYPICAL_GUIDANCE
        for outcome in outcomes:
            self._metrics.image(selection.metric_label, selection.alias, outcome.kind, outcome.seconds)
            if typical and outcome.kind in ("succeeded", "invalid"):
                self._tracker.record_outcome(selection.numbers, valid=outcome.kind == "succeeded")


def _is_typical_scale(metadata: GenerationMetadata) -> bool:
    """Whether one adapter has its own scale, or a smaller one that its style recommends."""
    if len(metadata.adapters) != 1:
        return False
    weight, recommended = metadata.adapters[0].weight, metadata.recommended
    return weight == 1.0 or (recommended is not None and "scale" in recommended.fields and 0.0 < weight < 1.0)


def _without_frames(error: Exception) -> Exception:
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def log_fields(job: GenerationJob) -> dict[str, Any]:
    """For the access log; never a prompt."""
    metadata = job.metadata[0].model_dump(exclude={"prompt", "negative_prompt", "adapters"})
    return metadata | {
        "alias": job.alias,
        "images": len(job.metadata),
        "job_id": job.id,
        "queued_s": round(job.queued_s(), 3),
    }
