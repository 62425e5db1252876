"""A thread that does some work at regular intervals, and goes on after a failure."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from atelier_registry.errors import RegistryApiError

log = logging.getLogger(__name__)


class PeriodicTask:
    """A daemon thread. An outage is logged once until it is over, any other error each time with its traceback.

    Args:
        name: of the thread, and in the log.
        work: raises `RegistryApiError` where something it needs does not answer.
        interval_s: before the first call, and between two calls.
    """

    def __init__(self, name: str, work: Callable[[], None], interval_s: float) -> None:
        self._name, self._work, self._interval_s = name, work, interval_s
        self._stop, self._failing = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stops after the call that is running; does not wait for it."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether a long call should return early."""
        return self._stop.is_set()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self._work()
                self._failing = False
            except RegistryApiError as error:
                if not self._failing:
                    fields = {"task": self._name, "retry_in_s": self._interval_s, "reason": str(error)}
                    log.warning("%s failed", self._name, extra={"fields": fields})
                self._failing = True
            except Exception:
                log.exception("%s failed", self._name)
