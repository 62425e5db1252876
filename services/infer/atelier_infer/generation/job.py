"""One request's images, from its arrival to its last byte, and whoever watches them."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from atelier_contracts.generate import Drawn, JobStatus
from starlette.concurrency import run_in_threadpool

from atelier_infer.engine.denoising_state import DenoisingState
from atelier_infer.engine.engine import DenoisingTask, Engine
from atelier_infer.errors import DrawingError, InferError, NonFiniteError
from atelier_infer.generation import image_codec
from atelier_infer.generation.webhooks import Webhook
from atelier_infer.pipeline.vae_decode import preview
from atelier_infer.problems import as_problem

State = Literal["waiting", "drawing", "done", "failed", "cancelled"]

Outcome = Literal["drawn", "unsound", "failed", "cancelled"]
"""Of an image; `unsound`: it was blank or not finite."""

EVENTS_KEPT = 256
"""Events that a slow watcher may lag behind; then it misses some."""

PREVIEW_SHARE = 3
"""After a preview the next one waits so many times as long as that one took."""


@dataclass(frozen=True)
class Attempt:
    """What an order is drawn with.

    Attributes:
        alias: what led to the version; none where no alias did.
        drawings: one per image.
        drawn: what each image says of itself.
        warnings: for the sender.
        seen: told of each image: how it ended, and seconds from its first step to its pixels where there are any.
    """

    alias: str | None
    drawings: list[DenoisingState]
    drawn: list[Drawn]
    warnings: list[str]
    seen: Callable[[Outcome, float | None], None]


@dataclass(frozen=True)
class JobTimestamps:
    """When what happened to a job; all that is kept of it."""

    queued_at: float
    started_at: float | None
    stepped_at: float | None
    ended_at: float | None


@dataclass(eq=False)
class GenerationJob:
    """One request. Lives on the event loop's thread. Once it has ended it holds encoded images: no adapter, base or pixels.

    Attributes:
        token_id: who sent it.
        cast: what it is drawn with; without drawings once it has ended.
        understudy: what all of it is drawn with instead when the cast's drawing fails.
        callback: sent when it has ended.
        pngs: the images that are finished.
    """

    engine: Engine
    token_id: str
    cast: Attempt
    fallback: Attempt | None = None
    callback: Webhook | None = None
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    jobs: list[DenoisingTask] = field(default_factory=list)
    pngs: dict[int, bytes] = field(default_factory=dict)
    error: Exception | None = None
    cancelled: bool = False
    ended_at: float | None = None
    encode_s: float = 0.0
    redrawn: bool = False
    marks: list[JobTimestamps] = field(default_factory=list)
    _steps: tuple[int, int] = (0, 0)
    _watchers: list[asyncio.Queue[tuple[str, Any]]] = field(default_factory=list)
    _preview_at: float = 0.0
    _previews: set[asyncio.Task[None]] = field(default_factory=set)

    async def draw(self) -> None:
        """Puts the drawings into the queue and waits for all; what goes wrong with one ends the others, and is kept."""
        try:
            error = await self._perform()
            if isinstance(error, DrawingError) and self.fallback and not self.cancelled:
                self.cast, self.fallback, self.redrawn = self.fallback, None, True
                self.pngs.clear()
                error = await self._perform()
            self.error = error
        finally:
            self.ended_at = time.monotonic()
            self._release()
        self._tell("end", None)

    def _release(self) -> None:
        self.marks = self._marks()
        self._steps = self._counted()
        self.jobs, self.cast, self.fallback = [], replace(self.cast, drawings=[]), None

    def cancel(self) -> None:
        """Ends it within one step; without effect on one that has ended."""
        if self.ended_at is None:
            self.cancelled = True
            for job in self.jobs:
                job.cancel()

    @property
    def alias(self) -> str | None:
        """What led to the version that draws it."""
        return self.cast.alias

    @property
    def drawings(self) -> list[DenoisingState]:
        """One per image."""
        return self.cast.drawings

    @property
    def drawn(self) -> list[Drawn]:
        """What each image is drawn with."""
        return self.cast.drawn

    @property
    def warnings(self) -> list[str]:
        """For the sender."""
        return self.cast.warnings

    @property
    def state(self) -> State:
        """Where it is."""
        if self.ended_at is None:
            return "drawing" if any(job.started_at is not None for job in self.jobs) else "waiting"
        if self.error is None:
            return "done"
        return "cancelled" if self.cancelled else "failed"

    @property
    def nbytes(self) -> int:
        """Memory of the finished images."""
        return sum(map(len, self.pngs.values()))

    def status(self) -> JobStatus:
        """As it is told."""
        going = [job for job in self.jobs if not job.future.done()] if self.ended_at is None else []
        positions = [place for job in going if (place := self.engine.position(job)) is not None]
        left = [self.engine.seconds_left(job) for job in going]
        step, steps = self._counted() if self.ended_at is None else self._steps
        return JobStatus(
            id=self.id,
            state=self.state,
            position=min(positions, default=None),
            step=step,
            steps=steps,
            seconds_left=round(max(left), 1) if left else None,
            images=[f"/jobs/{self.id}/images/{index}" for index in sorted(self.pngs)],
            drawn=self.drawn,
            alias=self.alias,
            warnings=self.warnings,
            problem=as_problem(self.error) if self.error else None,
            callback=self.callback.status() if self.callback else None,
        )

    def timing(self) -> str:
        """The value of `Server-Timing`, in ms: the longest of the images each. Source: W3C Server Timing."""
        spans = {"queue": 0.0, "steps": 0.0, "decode": 0.0}
        for job in self.marks or self._marks():
            marks = [job.queued_at, job.started_at, job.stepped_at, job.ended_at]
            for name, start, end in zip(spans, marks, marks[1:], strict=False):
                if start is not None and end is not None:
                    spans[name] = max(spans[name], end - start)
        return ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in (*spans.items(), ("encode", self.encode_s)))

    def queued_s(self) -> float:
        """The longest wait of its images for their first step."""
        waits = [mark.started_at - mark.queued_at for mark in self.marks or self._marks() if mark.started_at is not None]
        return max(waits, default=0.0)

    def watch(self) -> asyncio.Queue[tuple[str, Any]]:
        """A queue that hears of steps, previews, images and the end, until `unwatch`."""
        watcher: asyncio.Queue[tuple[str, Any]] = asyncio.Queue(EVENTS_KEPT)
        self._watchers.append(watcher)
        return watcher

    def unwatch(self, watcher: asyncio.Queue[tuple[str, Any]]) -> None:
        """Ends it."""
        self._watchers.remove(watcher)

    def _marks(self) -> list[JobTimestamps]:
        return [JobTimestamps(job.queued_at, job.started_at, job.stepped_at, job.ended_at) for job in self.jobs]

    def _counted(self) -> tuple[int, int]:
        """Steps taken and steps in all, of all images."""
        return sum(drawing.taken for drawing in self.drawings), sum(drawing.steps for drawing in self.drawings)

    def _tell(self, name: str, data: Any) -> None:
        for watcher in self._watchers:
            if watcher.full() and name in ("step", "preview"):
                continue
            if watcher.full():  # an image or the end must get through
                watcher.get_nowait()
            watcher.put_nowait((name, data))

    async def _perform(self) -> Exception | None:
        """Draws with the cast that there is now, and returns what went wrong."""
        loop, cast, jobs = asyncio.get_running_loop(), self.cast, list[DenoisingTask]()
        self.jobs = jobs
        failed: Exception | None = None
        try:
            for index, drawing in enumerate(cast.drawings):
                told = partial(self._from_engine, loop, index, drawing)
                jobs.append(self.engine.submit(drawing, sender=self.id, on_step=told))
            async with asyncio.TaskGroup() as group:
                for index, job in enumerate(jobs):
                    group.create_task(self._image(index, job, cast))
        except BaseExceptionGroup as errors:
            failed = next((error for error in errors.exceptions if isinstance(error, Exception)), None)
        except InferError as error:
            failed = error
        finally:
            for job in jobs:
                job.cancel()
        if failed:
            ended: Outcome = "cancelled" if self.cancelled else "failed"
            cast.seen("unsound" if isinstance(failed, NonFiniteError) else ended, None)
        return failed

    async def _image(self, index: int, job: DenoisingTask, cast: Attempt) -> None:
        pixels = await asyncio.wrap_future(job.future)
        started = time.monotonic()
        self.pngs[index] = await run_in_threadpool(image_codec.png_bytes, pixels, cast.drawn[index])
        self.encode_s = max(self.encode_s, time.monotonic() - started)
        empty = image_codec.blank(pixels)
        if empty:
            cast.warnings.append(f"image {index} is blank")
        seconds = job.ended_at - job.started_at if job.ended_at is not None and job.started_at is not None else None
        cast.seen("unsound" if empty else "drawn", seconds)
        self._tell("image", {"image": index, "path": f"/jobs/{self.id}/images/{index}"})

    def _from_engine(self, loop: asyncio.AbstractEventLoop, index: int, drawing: DenoisingState, job: DenoisingTask) -> None:
        """On the engine's thread."""
        if self._watchers and not loop.is_closed():
            loop.call_soon_threadsafe(self._stepped, index, drawing, drawing.taken, drawing.predicted)

    def _stepped(self, index: int, drawing: DenoisingState, taken: int, predicted: Any) -> None:
        if drawing not in self.drawings:  # of a cast that has left
            return
        self._tell("step", {"image": index, "step": taken, "steps": drawing.steps})
        now = time.monotonic()
        if not self._previews and now >= self._preview_at and taken < drawing.steps:
            task = asyncio.create_task(self._preview(index, taken, partial(preview, drawing.bundle, predicted)))
            self._previews.add(task)
            task.add_done_callback(self._previews.discard)

    async def _preview(self, index: int, taken: int, call: Callable[[], Any]) -> None:
        started = time.monotonic()
        try:
            pixels = await asyncio.wrap_future(self.engine.decode(call))
        except (DrawingError, RuntimeError):  # early latents may be wild, and the service may be ending: no preview then
            return
        small = await run_in_threadpool(image_codec.preview_bytes, pixels)
        now = time.monotonic()
        self._preview_at = now + PREVIEW_SHARE * (now - started)
        self._tell("preview", {"image": index, "step": taken, "webp": base64.b64encode(small).decode()})
