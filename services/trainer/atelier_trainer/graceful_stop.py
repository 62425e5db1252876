"""SIGTERM as a request: the training stops at the next optimizer step, after a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import Any

from atelier_trainer.errors import Stopped


class StopSignal:
    """While entered in the main thread, SIGTERM only sets `requested`; in another thread it is never set."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python handles signals nowhere else
            self._previous = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def check(self) -> None:
        """For stages that have nothing to save.

        Raises:
            Stopped: SIGTERM was received.
        """
        if self.requested:
            raise Stopped("stopped by SIGTERM before the first step")

    def _request(self, _number: int, _frame: Any) -> None:
        self.requested = True
