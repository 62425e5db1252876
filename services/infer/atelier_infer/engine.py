"""The one thread that runs the graphs, and the queue before it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from atelier_infer.drawing import Pixels
from atelier_infer.errors import DrainingError, QueueFullError

log = logging.getLogger(__name__)
T = TypeVar("T")

SMOOTHING = 0.2
"""Weight of the newest drawing in the mean duration that Retry-After is computed from."""


class Steps(Protocol):
    """What the thread runs: a `drawing.Drawing`, or anything that is done step by step."""

    @property
    def done(self) -> bool:
        """Whether every step was taken."""
        ...

    def begin(self) -> None:
        """Before the first step."""
        ...

    def step(self) -> None:
        """One step, the unit between two looks at the clock, at cancellation and at errands."""
        ...

    def finish(self) -> Pixels:
        """After the last step."""
        ...


@dataclass
class Job:
    """A drawing in the queue or running. `future` holds its pixels."""

    steps: Steps
    future: Future[Pixels] = field(default_factory=Future)
    cancelled: threading.Event = field(default_factory=threading.Event)
    queued_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None

    def cancel(self) -> None:
        """Ends it at the next step; without effect on one that has ended."""
        self.cancelled.set()


class Engine:
    """Runs one drawing after the other, in the order of arrival, and errands between any two steps."""

    def __init__(self, *, queue_limit: int, drain_timeout_s: float) -> None:
        """`queue_limit` counts requests that wait; one more is being drawn."""
        self._limit, self._drain_timeout_s = queue_limit, drain_timeout_s
        self._condition = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._errands: deque[Callable[[], None]] = deque()
        self._admitted = 0
        self._mean_s = 1.0
        self._deadline = math.inf
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    @property
    def draining(self) -> bool:
        """Whether new requests are refused because the service is ending."""
        return self._deadline < math.inf

    @property
    def admitted(self) -> int:
        """Requests that hold a place: waiting, running, or loading their version."""
        return self._admitted

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def drain(self) -> None:
        """Refuses new requests from now on and ends those that are not done after drain_timeout_s. Safe in a signal handler."""
        self._deadline = min(self._deadline, time.monotonic() + self._drain_timeout_s)

    def stop(self) -> None:
        """Ends the thread after the step that runs now; whatever waits is told so."""
        with self._condition:
            self._deadline, self._stopping = 0.0, True
            self._condition.notify_all()
        self._thread.join()
        while self._errands:
            self._errands.popleft()()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Holds a place for one request, from its arrival to its answer.

        Raises:
            QueueFullError: every place is taken.
            DrainingError: the service is shutting down.
        """
        with self._condition:
            if self.draining:
                raise self._draining_error()
            if self._admitted > self._limit:
                raise QueueFullError(
                    f"at most {self._limit} requests may wait, and as many do; send the request again later",
                    math.ceil(self._mean_s * self._admitted),
                )
            self._admitted += 1
        try:
            yield
        finally:
            with self._condition:
                self._admitted -= 1

    def submit(self, steps: Steps) -> Job:
        """Puts a drawing at the end of the queue."""
        job = Job(steps)
        with self._condition:
            self._jobs.append(job)
            self._condition.notify_all()
        return job

    def errand(self, call: Callable[[], T]) -> T:
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

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._errands or self._jobs)
                if self._stopping and not self._jobs:
                    return
                job = self._jobs.popleft() if self._jobs and not self._errands else None
            self._run_errands()
            if job:
                self._draw(job)

    def _draw(self, job: Job) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        job.started_at = time.monotonic()
        try:
            self._between_steps(job)
            job.steps.begin()
            while not job.steps.done:
                self._between_steps(job)
                job.steps.step()
            self._between_steps(job)
            pixels = job.steps.finish()
        except Exception as error:  # noqa: BLE001  it belongs to the request that waits for the pixels
            job.future.set_exception(error)
        else:
            self._mean_s += SMOOTHING * (time.monotonic() - job.started_at - self._mean_s)
            job.future.set_result(pixels)

    def _between_steps(self, job: Job) -> None:
        self._run_errands()
        if job.cancelled.is_set():
            raise CancelledError
        if time.monotonic() > self._deadline:
            raise self._draining_error()

    def _run_errands(self) -> None:
        while self._errands:
            self._errands.popleft()()

    def _draining_error(self) -> DrainingError:
        return DrainingError("the service is shutting down; send the request again, another instance or the next one answers")
