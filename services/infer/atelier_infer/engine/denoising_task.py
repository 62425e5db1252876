"""What the engine runs: one image that takes steps until it is done and is then decoded."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from typing import Protocol

from atelier_infer.pipeline.vae_decode import Pixels


class StepListener(Protocol):
    def on_step(self, task: DenoisingTask) -> None:
        """Called on the engine's thread after each step; must return quickly."""


class DenoisingTask(ABC):
    """The engine's thread calls `prepare` once and then steps until `done`; `finish` runs on the decoder's thread.

    Attributes:
        sender: tasks of one request have the same sender.
        future: the pixels, or the error.
        queued_at, started_at, stepped_at, ended_at: of `time.monotonic`: submitted, first step begun, last step taken, decoded.
        cost_s: this task's share of the time of its steps.
    """

    def __init__(self) -> None:
        self.sender: Hashable = None
        self.listener: StepListener | None = None
        self.future: Future[Pixels] = Future()
        self.cancelled = threading.Event()
        self.queued_at = time.monotonic()
        self.started_at: float | None = None
        self.stepped_at: float | None = None
        self.ended_at: float | None = None
        self.cost_s = 0.0

    @property
    @abstractmethod
    def bucket_key(self) -> Hashable:
        """Tasks with equal keys can share a step."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """Batch rows of the next step."""

    @property
    @abstractmethod
    def adapter_ranks(self) -> Mapping[str, int]:
        """Rank by adapter digest."""

    @property
    @abstractmethod
    def steps(self) -> int: ...

    @property
    @abstractmethod
    def completed_steps(self) -> int: ...

    @abstractmethod
    def prepare(self) -> None:
        """Called before the first step."""

    @abstractmethod
    def finish(self, keep_going: Callable[[], bool]) -> Pixels:
        """Decodes the image after the last step; `keep_going` turns false when the task is cancelled."""

    @property
    def done(self) -> bool:
        return self.completed_steps == self.steps

    def cancel(self) -> None:
        """Ends the task before its next step; has no effect on one that has ended."""
        self.cancelled.set()
