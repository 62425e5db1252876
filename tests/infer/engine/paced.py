"""Tasks whose steps a test releases one by one, and an engine that runs them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from atelier_infer.engine.denoising_task import DenoisingTask
from atelier_infer.engine.engine import Engine

PATIENCE_S = 20


class Paced(DenoisingTask):
    """A task whose steps are released one by one. By default it has a bucket of its own, so it runs alone."""

    bucket_key = rows = adapter_ranks = steps = None

    def __init__(self, steps: int, journal: list[str] | None = None, name: str = "", key: object = None) -> None:
        super().__init__()
        self.left, self.journal, self.name = steps, journal if journal is not None else [], name
        self.bucket_key, self.rows, self.steps = key or id(self), 2, steps
        self.adapter_ranks: dict[Any, Any] = {}  # type: ignore[no-redef, var-annotated]
        self.go, self.reached = threading.Semaphore(0), threading.Semaphore(0)

    @property
    def completed_steps(self) -> int:
        return self.steps - self.left

    def prepare(self) -> None:
        self.journal.append(f"{self.name} begins")

    def step(self) -> None:
        self.reached.release()
        assert self.go.acquire(timeout=PATIENCE_S)
        self.left -= 1
        self.journal.append(f"{self.name} steps")

    def finish(self, keep_going: Callable[..., Any]) -> np.ndarray:
        return np.zeros((1, 1, 3), np.uint8)

    def let(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.go.release()

    def arrived(self) -> None:
        assert self.reached.acquire(timeout=PATIENCE_S)


class Listener:
    def __init__(self, call: Callable[..., Any]) -> None:
        self.on_step = call


def submit(engine: Engine, task: Paced, **options: Any) -> Paced:
    engine.submit(task, **options)
    return task


def take_step(tasks: list[Paced]) -> list[None]:
    for task in tasks:
        task.step()
    return [None] * len(tasks)
