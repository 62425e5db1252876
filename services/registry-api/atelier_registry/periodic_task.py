"""Something that is done every so often in a thread, and goes on after a failure."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from atelier_registry.errors import RegistryApiError

log = logging.getLogger(__name__)


class PeriodicTask:
    """A daemon thread. An outage is logged once until it is over, an unexpected error each time with its traceback.

    Args:
        name: of the thread, and in the log.
        work: is called; a RegistryApiError means that something it needs does not answer.
        every_s: before the first call, and between two calls.
    """

    def __init__(self, name: str, work: Callable[[], None], every_s: float) -> None:
        self._name, self._work, self._every_s = name, work, every_s
        self._stopping, self._failing = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the call that is under way; does not wait for it."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether a long call should end early."""
        return self._stopping.is_set()

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            try:
                self._work()
                self._failing = False
            except RegistryApiError as error:
                if not self._failing:
                    log.warning("%s failed, and is tried again every %g s: %s", self._name, self._every_s, error)
                self._failing = True
            except Exception:
                log.exception("%s failed", self._name)
