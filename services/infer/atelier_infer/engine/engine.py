"""The one thread that takes steps, the queue before it, and the one thread behind it that decodes."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from atelier_infer.engine.batch_scheduler import BatchScheduler
from atelier_infer.engine.memory_account import MemoryAccount
from atelier_infer.errors import CancelledJobError, DrainingError, MemoryFullError, QueueFullError
from atelier_infer.pipeline.vae_decode import Pixels

log = logging.getLogger(__name__)
T = TypeVar("T")

ROOM_POLL_S = 0.5
"""How often the thread looks anew while it waits for a decoding to end; it is also woken by that."""

SMOOTHING = 0.2
"""Weight of the newest drawing in the mean cost that Retry-After is computed from."""


class Image(Protocol):
    """What the threads work on: a `drawing.Drawing`, or anything that is done step by step."""

    @property
    def key(self) -> Hashable:
        """Those of the same key can share a step."""
        ...

    @property
    def rows(self) -> int:
        """Rows of the next step."""
        ...

    @property
    def parts(self) -> Mapping[str, int]:
        """Rank by adapter."""
        ...

    @property
    def steps(self) -> int:
        """Steps in all."""
        ...

    @property
    def taken(self) -> int:
        """Steps taken."""
        ...

    @property
    def done(self) -> bool:
        """Whether every step was taken."""
        ...

    def begin(self) -> None:
        """Before the first step."""
        ...

    def finish(self, proceed: Callable[[], bool]) -> Pixels:
        """After the last step; on the decoder's thread."""
        ...


@dataclass(eq=False)
class DenoisingTask:
    """A drawing that waits or is drawn. `future` holds its pixels; `on_step` is called after each step and must be quick."""

    image: Image
    sender: Hashable = None
    on_step: Callable[[DenoisingTask], None] = lambda job: None
    future: Future[Pixels] = field(default_factory=Future)
    cancelled: threading.Event = field(default_factory=threading.Event)
    queued_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None
    stepped_at: float | None = None
    ended_at: float | None = None
    cost_s: float = 0.0

    def cancel(self) -> None:
        """Ends it at the next step; without effect on one that has ended."""
        self.cancelled.set()

    key = property(lambda self: self.image.key)
    rows = property(lambda self: self.image.rows)
    parts = property(lambda self: self.image.parts)


class Engine:
    """Takes one step after the other, each for as many drawings as fit, and runs errands between any two steps.

    Args:
        advance: takes one step of drawings of the same key, and returns per drawing what went wrong with it.
        queue_limit: images that may wait beside one.
        rows_limit: rows of one step.
        rank_limit: sum of the ranks in one step.
        drain_timeout_s: after `drain`, for what is under way.
        stuck_after_s: the thread counts as stuck when it has done one thing for so long; well above the longest step.
        memory: says which images fit into a step, beside those that are decoded meanwhile; without it, any.
        stepped: told of each step: rows, drawings, seconds.
    """

    def __init__(
        self,
        *,
        advance: Callable[[Sequence[Any]], Sequence[Exception | None]],
        queue_limit: int,
        rows_limit: int,
        rank_limit: int,
        drain_timeout_s: float,
        stuck_after_s: float = math.inf,
        memory: MemoryAccount | None = None,
        stepped: Callable[[int, int, float], None] = lambda rows, drawings, seconds: None,
    ) -> None:
        self._advance, self._stepped = advance, stepped
        self._limit, self._drain_timeout_s = queue_limit, drain_timeout_s
        self._condition = threading.Condition()
        self._stuck_after_s, self._busy_since = stuck_after_s, math.inf
        self.memory = memory
        self._decoding: list[DenoisingTask] = []

        def enough(jobs: Sequence[DenoisingTask]) -> bool:
            images: list[list[Any]] = [[job.image for job in some] for some in (jobs, self._decoding)]
            return memory is None or memory.fits(*images)

        self._turns: BatchScheduler[DenoisingTask] = BatchScheduler(
            rows_limit=rows_limit, rank_limit=rank_limit, enough_memory=enough
        )
        self._errands: deque[Callable[[], None]] = deque()
        self._admitted = 0
        self._mean_s = 1.0
        self._deadline = math.inf
        self._stopping = False
        self._senders = itertools.count()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decoder")

    @property
    def draining(self) -> bool:
        """Whether new requests are refused because the service is ending."""
        return self._deadline < math.inf

    @property
    def deadline(self) -> float:
        """Of `time.monotonic`: when what is under way is ended; infinity unless the service is ending."""
        return self._deadline

    @property
    def admitted(self) -> int:
        """Images that hold a place: waiting, being drawn, or loading their version."""
        return self._admitted

    @property
    def drawing(self) -> int:
        """Images that take steps."""
        with self._condition:
            return self._turns.drawing

    @property
    def alive(self) -> bool:
        """Whether its thread works or waits for work; False once it is dead, or stuck in one step for stuck_after_s."""
        if self._stopping or self._thread.ident is None:
            return True
        return self._thread.is_alive() and time.monotonic() - self._busy_since < self._stuck_after_s

    def start(self) -> None:
        """Starts the threads."""
        self._thread.start()

    def drain(self) -> None:
        """Refuses new requests from now on and ends those that are not done after drain_timeout_s. Safe in a signal handler."""
        self._deadline = min(self._deadline, time.monotonic() + self._drain_timeout_s)

    def stop(self) -> None:
        """Ends the threads after the step that runs now; whatever waits is told so."""
        with self._condition:
            self._deadline, self._stopping = 0.0, True
            self._condition.notify_all()
        self._thread.join()
        for job in list(self._turns):  # of a thread that was dead
            self._end(job, self._draining_error())
        self._run_errands()
        self._decoder.shutdown()

    @contextmanager
    def admit(self, images: int = 1) -> Iterator[None]:
        """Holds places for one request, from its arrival to its answer. Alone it is let in whatever the limit.

        Raises:
            QueueFullError: there are not as many places.
            DrainingError: the service is shutting down.
        """
        with self._condition:
            if self.draining:
                raise self._draining_error()
            if self._admitted and self._admitted + images > self._limit + 1:
                raise QueueFullError(
                    f"at most {self._limit} images may wait beside the first; {self._admitted} are under way and {images} "
                    "more were asked for; send the request again later",
                    self.seconds_for(self._admitted),
                )
            self._admitted += images
        try:
            yield
        finally:
            with self._condition:
                self._admitted -= images

    def seconds_for(self, images: float) -> int:
        """How long so many images take, judged by the last ones; at least 1."""
        return max(1, math.ceil(self._mean_s * images))

    def submit(
        self, image: Image, *, sender: Hashable = None, on_step: Callable[[DenoisingTask], None] | None = None
    ) -> DenoisingTask:
        """Puts a drawing into the queue; without a sender it is a request of its own.

        Raises:
            DrainingError: the service has ended.
        """
        job = DenoisingTask(image, next(self._senders) if sender is None else sender)
        if on_step:
            job.on_step = on_step
        with self._condition:
            if self._stopping:
                raise self._draining_error()
            self._turns.add(job)
            self._condition.notify_all()
        return job

    def seconds_left(self, job: DenoisingTask) -> float:
        """Until its pixels are there: what came before it and what is drawn with it share the thread."""
        with self._condition:
            ahead = [other for other in self._turns if other.started_at is not None or other.queued_at < job.queued_at]
        left = sum(1 - other.image.taken / other.image.steps for other in {*ahead, job})
        return self._mean_s * left

    def position(self, job: DenoisingTask) -> int | None:
        """How many others came before it and are not drawn yet; none once it has taken its last step."""
        with self._condition:
            others = list(self._turns)
        return sum(other.queued_at < job.queued_at for other in others) if job in others else None

    def run_between_steps(self, call: Callable[[], T]) -> T:
        """Runs something short on the engine's thread, before the next step of any drawing, and waits for it.

        Raises:
            DrainingError: the service is shutting down.
        """
        result: Future[T] = Future()

        def run() -> None:
            if self._stopping:
                result.set_exception(self._draining_error())
                return
            try:
                result.set_result(call())
            except Exception as error:  # noqa: BLE001  it belongs to who waits for the result
                result.set_exception(error)

        with self._condition:
            if self._stopping:
                raise self._draining_error()
            self._errands.append(run)
            self._condition.notify_all()
        return result.result()

    def decode(self, call: Callable[[], T]) -> Future[T]:
        """Runs something on the decoder's thread."""
        return self._decoder.submit(call)

    def _work(self) -> None:
        while True:
            with self._condition:
                self._busy_since = math.inf
                self._condition.wait_for(lambda: self._stopping or self._errands or len(self._turns))
                if self._stopping and not len(self._turns):
                    return
                self._busy_since = time.monotonic()
            self._run_errands()
            self._sweep()
            self._turn()

    def _turn(self) -> None:
        """One step of those whose turn it is; a method, so that no job is held while the thread waits for the next."""
        with self._condition:
            jobs = self._turns.next()
            if not jobs and self._decoding:  # its end makes room
                self._condition.wait(ROOM_POLL_S)
                return
            left = list(self._turns)
        if not jobs and left and self.memory:
            oldest = min(left, key=lambda job: job.queued_at)
            image: Any = oldest.image
            self._end(oldest, self.memory.full(image))
            return
        started = time.monotonic()
        if jobs := [job for job in jobs if self._begun(job)]:
            rows = sum(job.rows for job in jobs)
            self._step(jobs)
            seconds = time.monotonic() - started
            for job in jobs:
                job.cost_s += seconds / len(jobs)
            with self._condition:
                self._turns.spent(seconds)
            self._stepped(rows, len(jobs), seconds)

    def _begun(self, job: DenoisingTask) -> bool:
        if job.started_at is not None:
            return True
        if not job.future.set_running_or_notify_cancel():
            self._remove(job)
            return False
        job.started_at = time.monotonic()
        try:
            job.image.begin()
        except Exception as error:  # noqa: BLE001  it belongs to the request that waits for the pixels
            self._end(job, error)
            return False
        return True

    def _step(self, jobs: list[DenoisingTask]) -> None:
        try:
            faults = self._advance([job.image for job in jobs])
        except MemoryFullError as error:
            if len(jobs) > 1:
                with self._condition:
                    self._turns.split()
                return
            faults = [error]
        except Exception as error:  # noqa: BLE001  it belongs to the requests that wait for the pixels
            faults = [error] * len(jobs)
        for job, fault in zip(jobs, faults, strict=True):
            if fault:
                self._end(job, fault)
                continue
            job.stepped_at = time.monotonic()
            try:
                job.on_step(job)
            except Exception:  # a listener must not end the thread that everyone's images need
                log.exception("a listener failed")
            if job.image.done:
                with self._condition:
                    self._turns.remove(job)
                    self._decoding.append(job)
                self._decoder.submit(self._finish, job)

    def _finish(self, job: DenoisingTask) -> None:
        started = time.monotonic()
        try:
            pixels = self._decoded(job)
        except Exception as error:  # noqa: BLE001  it belongs to the request that waits for the pixels
            job.future.set_exception(error)
        else:
            job.ended_at = time.monotonic()
            self._mean_s += SMOOTHING * (job.cost_s + job.ended_at - started - self._mean_s)
            job.future.set_result(pixels)

    def _decoded(self, job: DenoisingTask) -> Pixels:
        try:
            return job.image.finish(lambda: not job.cancelled.is_set())
        finally:
            with self._condition:
                self._decoding.remove(job)
                self._condition.notify_all()

    def _sweep(self) -> None:
        """Ends what was cancelled, and everything once the deadline is over."""
        with self._condition:
            jobs = list(self._turns)
        late = time.monotonic() > self._deadline
        for job in jobs:
            if job.cancelled.is_set():
                self._end(job, CancelledJobError("the request was cancelled; send it again to have it drawn"))
            elif late:
                self._end(job, self._draining_error())

    def _end(self, job: DenoisingTask, error: BaseException) -> None:
        self._remove(job)
        if job.started_at is not None or job.future.set_running_or_notify_cancel():
            job.future.set_exception(error)

    def _remove(self, job: DenoisingTask) -> None:
        with self._condition:
            self._turns.remove(job)

    def _run_errands(self) -> None:
        while self._errands:
            self._errands.popleft()()

    def _draining_error(self) -> DrainingError:
        return DrainingError("the service is shutting down; send the request again, another instance or the next one answers")
