"""Work that a thread does at intervals, and goes on with after a failure."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class PeriodicTask:
    """A daemon thread. An outage is logged once until it is over, an unexpected error each time with its traceback.

    Args:
        name: of the thread, and in the log.
        work: is called at each interval.
        interval_s: before the first call, and between two calls.
        outage: errors that mean that something `work` needs is unavailable.
    """

    def __init__(self, name: str, work: Callable[[], None], interval_s: float, outage: type[Exception]) -> None:
        self._name, self._work, self._interval_s, self._outage = name, work, interval_s, outage
        self._stopping, self._failing = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the call that is under way; does not wait for it."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether a long call should end early."""
        return self._stopping.is_set()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self._work()
                self._failing = False
            except self._outage as error:
                if not self._failing:
                    log.warning("%s failed; retrying every %g s: %s", self._name, self._interval_s, error)
                self._failing = True
            except Exception:
                log.exception("%s failed", self._name)
