"""The thread that takes steps, the queue in front of it, and the decoder's thread behind it."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from atelier_infer.engine.admission import Admission
from atelier_infer.engine.batch_scheduler import BatchScheduler
from atelier_infer.engine.decoder import Decoder
from atelier_infer.engine.denoising_task import DenoisingTask, StepListener
from atelier_infer.engine.memory_budget import MemoryBudget
from atelier_infer.errors import CancelledJobError, DrainingError, OutOfMemoryError

log = logging.getLogger(__name__)
T = TypeVar("T")

MEMORY_POLL_S = 0.5
"""How often the thread checks again while it waits for a decode to free memory; the end of a decode wakes it too."""


class Engine:
    """Takes one step after another, each for as many tasks as fit, and runs short calls between any two steps.

    Args:
        take_step: takes one step of tasks of one bucket and returns, per task, its error or None.
        queue_limit: images that may wait besides one.
        rows_limit: batch rows of one step.
        rank_limit: sum of the ranks in one step.
        drain_timeout_s: after `drain`, for the tasks under way.
        stuck_after_s: the thread counts as stuck after one activity of this length; must exceed the longest step.
        memory: decides which tasks fit into a step while others are decoded; without it all do.
        record_step: called after each step with rows, tasks and seconds.
    """

    def __init__(
        self,
        *,
        take_step: Callable[[Sequence[Any]], Sequence[Exception | None]],
        queue_limit: int,
        rows_limit: int,
        rank_limit: int,
        drain_timeout_s: float,
        stuck_after_s: float = math.inf,
        memory: MemoryBudget | None = None,
        record_step: Callable[[int, int, float], None] = lambda rows, tasks, seconds: None,
    ) -> None:
        self._take_step, self._record_step, self.memory = take_step, record_step, memory
        self._drain_timeout_s, self._deadline, self._stopping = drain_timeout_s, math.inf, False
        self._stuck_after_s, self._busy_since = stuck_after_s, math.inf
        self.admission = Admission(queue_limit)
        self._condition = threading.Condition()
        self._scheduler = BatchScheduler(rows_limit=rows_limit, rank_limit=rank_limit, fits_memory=self._fits_memory)
        self._calls: deque[Callable[[], None]] = deque()
        self._senders = itertools.count()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._decoder = Decoder(self._condition, self.admission)

    @property
    def draining(self) -> bool:
        """Whether new requests are refused because the service is shutting down."""
        return self._deadline < math.inf

    @property
    def deadline(self) -> float:
        """Of `time.monotonic`: when the tasks under way are ended; infinity unless the service is shutting down."""
        return self._deadline

    @property
    def running(self) -> int:
        """Tasks that take steps."""
        with self._condition:
            return self._scheduler.running

    @property
    def alive(self) -> bool:
        """False once the thread is dead, or stuck in one activity for stuck_after_s."""
        if self._stopping or self._thread.ident is None:
            return True
        return self._thread.is_alive() and time.monotonic() - self._busy_since < self._stuck_after_s

    def start(self) -> None:
        self._thread.start()

    def drain(self) -> None:
        """Refuses new requests from now on and ends unfinished tasks after drain_timeout_s. Safe in a signal handler."""
        self._deadline = min(self._deadline, time.monotonic() + self._drain_timeout_s)

    def stop(self) -> None:
        """Ends the threads after the current step; waiting tasks fail with DrainingError."""
        with self._condition:
            self._deadline, self._stopping = 0.0, True
            self._condition.notify_all()
        self._thread.join()
        for task in list(self._scheduler):  # the thread may have been dead
            self._fail(task, _draining_error())
        self._run_calls()
        self._decoder.shutdown()

    @contextmanager
    def admit(self, images: int = 1) -> Iterator[None]:
        """Counts the images of one request from arrival to response.

        Raises:
            QueueFullError: too many are under way.
            DrainingError: the service is shutting down.
        """
        if self.draining:
            raise _draining_error()
        with self.admission.admit(images):
            yield

    def submit(self, task: DenoisingTask, *, sender: Hashable = None, listener: StepListener | None = None) -> None:
        """Queues a task; without a sender it counts as a request of its own.

        Raises:
            DrainingError: the service has stopped.
        """
        task.sender = next(self._senders) if sender is None else sender
        task.listener, task.queued_at = listener, time.monotonic()
        with self._condition:
            if self._stopping:
                raise _draining_error()
            self._scheduler.add(task)
            self._condition.notify_all()

    def seconds_left(self, task: DenoisingTask) -> float:
        """Estimate until the pixels are there: older tasks and running ones share the thread with it."""
        with self._condition:
            others = [other for other in self._scheduler if other.started_at is not None or other.queued_at < task.queued_at]
        return self.admission.mean_s * sum(1 - other.completed_steps / other.steps for other in {*others, task})

    def queue_position(self, task: DenoisingTask) -> int | None:
        """How many unfinished tasks are older; None once the task has taken its last step."""
        with self._condition:
            tasks = list(self._scheduler)
        return sum(other.queued_at < task.queued_at for other in tasks) if task in tasks else None

    def run_between_steps(self, call: Callable[[], T]) -> T:
        """Runs a short call on the engine's thread before the next step of any task, and waits for it.

        Raises:
            DrainingError: the service is shutting down.
        """
        result: Future[T] = Future()

        def run() -> None:
            if self._stopping:
                result.set_exception(_draining_error())
                return
            try:
                result.set_result(call())
            except Exception as error:  # noqa: BLE001  raised again in the thread that waits for the result
                result.set_exception(error)

        with self._condition:
            if self._stopping:
                raise _draining_error()
            self._calls.append(run)
            self._condition.notify_all()
        return result.result()

    def run_on_decoder(self, call: Callable[[], T]) -> Future[T]:
        return self._decoder.run(call)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._busy_since = math.inf
                self._condition.wait_for(lambda: self._stopping or self._calls or len(self._scheduler))
                if self._stopping and not len(self._scheduler):
                    return
                self._busy_since = time.monotonic()
            self._run_calls()
            self._end_cancelled_and_late()
            self._run_step()

    def _run_step(self) -> None:
        """One step of the next batch. A method, so that no task is referenced while the thread waits for the next one."""
        started = time.monotonic()
        tasks = [task for task in self._next_batch() if self._prepared(task)]
        if not tasks:
            return
        rows = sum(task.rows for task in tasks)
        errors: Sequence[Exception | None] = []
        try:
            errors = self._take_step(tasks)
        except OutOfMemoryError as error:
            if len(tasks) == 1:
                errors = [error]
            else:
                with self._condition:
                    self._scheduler.split()
        except Exception as error:  # noqa: BLE001  raised again where the pixels are awaited
            errors = [error] * len(tasks)
        for task, result in zip(tasks, errors, strict=False):  # none after a split
            self._after_step(task, result)
        seconds = time.monotonic() - started
        for task in tasks:
            task.cost_s += seconds / len(tasks)
        with self._condition:
            self._scheduler.record_time(seconds)
        self._record_step(rows, len(tasks), seconds)

    def _next_batch(self) -> list[DenoisingTask]:
        with self._condition:
            if tasks := self._scheduler.next_batch():
                return tasks
            if self._decoder.tasks:  # frees memory when it ends
                self._condition.wait(MEMORY_POLL_S)
                return []
            waiting: list[Any] = list(self._scheduler)
        if waiting and self.memory:
            oldest = min(waiting, key=lambda task: task.queued_at)
            self._fail(oldest, self.memory.out_of_memory_error(oldest))
        return []

    def _prepared(self, task: DenoisingTask) -> bool:
        if task.started_at is not None:
            return True
        if not task.future.set_running_or_notify_cancel():
            self._remove(task)
            return False
        task.started_at = time.monotonic()
        try:
            task.prepare()
        except Exception as error:  # noqa: BLE001  raised again where the pixels are awaited
            self._fail(task, error)
            return False
        return True

    def _after_step(self, task: DenoisingTask, error: Exception | None) -> None:
        if error:
            self._fail(task, error)
            return
        task.stepped_at = time.monotonic()
        if task.listener:
            try:
                task.listener.on_step(task)
            except Exception:  # a listener must not end the thread that all images depend on
                log.exception("step listener failed")
        if task.done:
            with self._condition:
                self._scheduler.remove(task)
                self._decoder.submit(task)

    def _end_cancelled_and_late(self) -> None:
        with self._condition:
            tasks = list(self._scheduler)
        late = time.monotonic() > self._deadline
        for task in tasks:
            if task.cancelled.is_set():
                self._fail(task, CancelledJobError("the request was cancelled; send it again to generate the image"))
            elif late:
                self._fail(task, _draining_error())

    def _fail(self, task: DenoisingTask, error: BaseException) -> None:
        self._remove(task)
        if task.started_at is not None or task.future.set_running_or_notify_cancel():
            task.future.set_exception(error)

    def _remove(self, task: DenoisingTask) -> None:
        with self._condition:
            self._scheduler.remove(task)

    def _run_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()

    def _fits_memory(self, tasks: Sequence[Any]) -> bool:
        decoding: list[Any] = self._decoder.tasks
        return self.memory is None or self.memory.fits(tasks, decoding)


def _draining_error() -> DrainingError:
    return DrainingError("the service is shutting down; send the request again; another instance will answer it")
