"""The images of one request, from its arrival to the last encoded byte."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from atelier_contracts.generate import GenerationMetadata, JobStatus
from starlette.concurrency import run_in_threadpool

from atelier_infer.engine.denoising_state import DenoisingState
from atelier_infer.engine.engine import Engine
from atelier_infer.errors import InferError, NonFiniteError
from atelier_infer.generation import image_codec
from atelier_infer.generation.job_events import JobEvents
from atelier_infer.generation.webhooks import Webhook
from atelier_infer.problems import TABLE

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class ImageOutcome(NamedTuple):
    """How one image ended.

    Attributes:
        kind: `invalid`: blank or not finite.
        seconds: from its first step to its pixels; None without pixels.
    """

    kind: Literal["succeeded", "invalid", "failed", "cancelled"]
    seconds: float | None = None


@dataclass(frozen=True)
class ImageTimestamps:
    """Of `time.monotonic`: submitted, first step begun, last step taken, decoded."""

    queued_at: float
    started_at: float | None
    stepped_at: float | None
    ended_at: float | None


@dataclass(eq=False)
class GenerationJob:
    """Lives on the event loop's thread. After `finish` it holds encoded images, and no adapter, bundle or pixels.

    Attributes:
        token_id: of the sender.
        webhook: sent when the job has ended.
        alias: that led to the version.
        states: one per image; empty after `finish`.
        metadata: one per image.
        pngs: the finished images by index.
        encode_s: the longest encoding of an image.
    """

    engine: Engine
    token_id: str
    webhook: Webhook | None = None
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    alias: str | None = None
    states: list[DenoisingState] = field(default_factory=list)
    metadata: list[GenerationMetadata] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pngs: dict[int, bytes] = field(default_factory=dict)
    error: Exception | None = None
    cancelled: bool = False
    ended_at: float | None = None
    encode_s: float = 0.0
    _timestamps: list[ImageTimestamps] = field(default_factory=list)
    _steps: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.events = JobEvents(self.engine)

    def prepare(
        self, alias: str | None, states: list[DenoisingState], metadata: list[GenerationMetadata], warnings: list[str]
    ) -> None:
        """Sets what the next attempt generates; discards the images of an earlier one."""
        self.alias, self.states, self.metadata, self.warnings = alias, states, metadata, warnings
        self.pngs.clear()
        self.events.follow(states)

    async def attempt(self) -> list[ImageOutcome]:
        """Generates all images; the first error cancels the others and is kept in `error`.

        Returns:
            The outcome of each finished image, and one more for an error.
        """
        outcomes: list[ImageOutcome] = []
        self.error = None
        try:
            for state in self.states:
                self.engine.submit(state, sender=self.id, listener=self.events)
            async with asyncio.TaskGroup() as group:
                encodings = [group.create_task(self._encode(index)) for index in range(len(self.states))]
        except BaseExceptionGroup as errors:
            outcomes = [task.result() for task in encodings if task.done() and not task.cancelled() and not task.exception()]
            self.error = next((error for error in errors.exceptions if isinstance(error, Exception)), None)
        except InferError as error:
            self.error = error
        else:
            outcomes = [task.result() for task in encodings]
        finally:
            for state in self.states:
                state.cancel()
        if self.error:
            failed: ImageOutcome = ImageOutcome("cancelled" if self.cancelled else "failed")
            outcomes.append(ImageOutcome("invalid") if isinstance(self.error, NonFiniteError) else failed)
        return outcomes

    def finish(self) -> None:
        """Releases adapters, bundle and latents."""
        self.ended_at = time.monotonic()
        self._timestamps, self._steps = self._current_timestamps(), self._count_steps()
        self.states = []
        self.events.follow(())
        self.events.publish("end", None)

    def cancel(self) -> None:
        """Ends the job within one step; has no effect on one that has ended."""
        if self.ended_at is None:
            self.cancelled = True
            for state in self.states:
                state.cancel()

    @property
    def state(self) -> State:
        if self.ended_at is None:
            return "running" if any(state.started_at is not None for state in self.states) else "queued"
        if self.error is None:
            return "succeeded"
        return "cancelled" if self.cancelled else "failed"

    @property
    def nbytes(self) -> int:
        """Of the encoded images."""
        return sum(map(len, self.pngs.values()))

    def status(self) -> JobStatus:
        unfinished = [state for state in self.states if not state.future.done()]
        positions = [position for state in unfinished if (position := self.engine.queue_position(state)) is not None]
        seconds_left = [self.engine.seconds_left(state) for state in unfinished]
        completed_steps, total_steps = self._count_steps() if self.ended_at is None else self._steps
        return JobStatus(
            id=self.id,
            state=self.state,
            queue_position=min(positions, default=None),
            completed_steps=completed_steps,
            total_steps=total_steps,
            seconds_left=round(max(seconds_left), 1) if seconds_left else None,
            images=[f"/jobs/{self.id}/images/{index}" for index in sorted(self.pngs)],
            metadata=self.metadata,
            alias=self.alias,
            warnings=self.warnings,
            problem=TABLE.document(self.error) if self.error else None,
            webhook=self.webhook.status() if self.webhook else None,
        )

    def server_timing(self) -> str:
        """The header's value in ms, each the longest of the images. Source: W3C Server Timing."""
        spans = {"queue": 0.0, "steps": 0.0, "decode": 0.0}
        for image in self._timestamps or self._current_timestamps():
            moments = [image.queued_at, image.started_at, image.stepped_at, image.ended_at]
            for name, start, end in zip(spans, moments, moments[1:], strict=False):
                if start is not None and end is not None:
                    spans[name] = max(spans[name], end - start)
        return ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in (*spans.items(), ("encode", self.encode_s)))

    def queued_s(self) -> float:
        """The longest wait of an image for its first step."""
        images = self._timestamps or self._current_timestamps()
        return max((image.started_at - image.queued_at for image in images if image.started_at is not None), default=0.0)

    async def _encode(self, index: int) -> ImageOutcome:
        state = self.states[index]
        pixels = await asyncio.wrap_future(state.future)
        started = time.monotonic()
        self.pngs[index] = await run_in_threadpool(image_codec.encode_png, pixels, self.metadata[index])
        self.encode_s = max(self.encode_s, time.monotonic() - started)
        blank = image_codec.is_blank(pixels)
        if blank:
            self.warnings.append(f"image {index} is blank")
        self.events.publish("image", {"image": index, "path": f"/jobs/{self.id}/images/{index}"})
        assert state.started_at is not None and state.ended_at is not None
        return ImageOutcome("invalid" if blank else "succeeded", state.ended_at - state.started_at)

    def _current_timestamps(self) -> list[ImageTimestamps]:
        return [ImageTimestamps(state.queued_at, state.started_at, state.stepped_at, state.ended_at) for state in self.states]

    def _count_steps(self) -> tuple[int, int]:
        """Completed and total, summed over the images."""
        return sum(state.completed_steps for state in self.states), sum(state.steps for state in self.states)
