"""SIGTERM as a wish: the training ends at the next optimizer step, after a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import Any

from atelier_trainer.errors import Stopped


class Stop:
    """While entered in the main thread, SIGTERM sets `asked` and does nothing else; elsewhere it is never set."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # signals cannot be handled in another
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def check(self) -> None:
        """Ends what has nothing to save.

        Raises:
            Stopped: SIGTERM came.
        """
        if self.asked:
            raise Stopped("stopped by SIGTERM before the first step")

    def _ask(self, _number: int, _frame: Any) -> None:
        self.asked = True
