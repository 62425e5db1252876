"""The thread that decodes finished images, one at a time, while others take steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from atelier_infer.engine.admission import Admission
from atelier_infer.engine.denoising_task import DenoisingTask

T = TypeVar("T")


class Decoder:
    """Owns the thread.

    Args:
        condition: guards `tasks`; notified when a decode ends, because its memory is free then.
        admission: receives the cost of each image.

    Attributes:
        tasks: tasks that are being decoded or wait for it.
    """

    def __init__(self, condition: threading.Condition, admission: Admission) -> None:
        self._condition, self._admission = condition, admission
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="decoder")
        self.tasks: list[DenoisingTask] = []

    def submit(self, task: DenoisingTask) -> None:
        """Called with the condition held."""
        self.tasks.append(task)
        self._pool.submit(self._decode, task)

    def run(self, call: Callable[[], T]) -> Future[T]:
        """Runs something else on the thread, such as a preview."""
        return self._pool.submit(call)

    def shutdown(self) -> None:
        self._pool.shutdown()

    def _decode(self, task: DenoisingTask) -> None:
        started = time.monotonic()
        try:
            pixels = task.finish(lambda: not task.cancelled.is_set())
        except Exception as error:  # noqa: BLE001  raised again where the pixels are awaited
            self._remove(task)
            task.future.set_exception(error)
            return
        self._remove(task)
        task.ended_at = time.monotonic()
        self._admission.record_cost(task.cost_s + task.ended_at - started)
        task.future.set_result(pixels)

    def _remove(self, task: DenoisingTask) -> None:
        with self._condition:
            self.tasks.remove(task)
            self._condition.notify_all()
