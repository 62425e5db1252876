"""Periodically compares the registry's files of served versions with those in use. A difference is reported, not applied."""

from __future__ import annotations

import logging
import threading

from atelier_service.periodic_task import PeriodicTask

from atelier_infer.aliases.alias_tracker import AliasTracker
from atelier_infer.artifacts.artifact_cache import ArtifactCache
from atelier_infer.errors import InferError, RefusedError, UnknownVersionError

log = logging.getLogger(__name__)


class IntegrityMonitor:
    """A thread that downloads the files of every served version, one after another.

    Args:
        cache: downloads and compares.
        tracker: knows the served versions.
        interval_s: between two checks of all of them.
    """

    def __init__(self, *, cache: ArtifactCache, tracker: AliasTracker, interval_s: float) -> None:
        self._cache, self._tracker = cache, tracker
        self._task = PeriodicTask("integrity check", self.check, interval_s, InferError)
        self._lock = threading.Lock()
        self._problems: dict[tuple[int, str], str] = {}

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        """Does not wait for the version that is being compared."""
        self._task.stop()

    def problem(self, number: int, digest: str) -> str | None:
        """Result of the last check of a version that is served with files of this digest."""
        with self._lock:
            return self._problems.get((number, digest))

    def check(self) -> None:
        """Checks all served versions; one that cannot be checked now keeps its last result."""
        serving = self._tracker.snapshot()[1].values()
        served = {(version.number, version.adapter.digest) for version in serving if version.number and version.adapter}
        with self._lock:
            self._problems = {key: problem for key, problem in self._problems.items() if key in served}
        for number, digest in sorted(served):
            if self._task.stopping:
                return
            try:
                self._cache.compare_with_registry(number, digest)
            except (RefusedError, UnknownVersionError) as error:
                self._record(number, digest, str(error))
            except InferError:
                continue
            else:
                with self._lock:
                    self._problems.pop((number, digest), None)

    def _record(self, number: int, digest: str, reason: str) -> None:
        problem = (
            f"the files of version {number} were changed after its promotion; the promoted ones are still served: {reason}"
        )
        with self._lock:
            known, self._problems[number, digest] = self._problems.get((number, digest)), problem
        if known != problem:
            fields = {"version": number, "adapter_digest": digest, "reason": reason}
            log.error("files of a served version changed", extra={"fields": fields})
