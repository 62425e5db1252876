"""Compares the files of served versions with what is drawn, again and again. A change changes no image, but is shown."""

from __future__ import annotations

import logging
import threading

from atelier_infer.aliases.alias_tracker import AliasTracker
from atelier_infer.artifacts.artifact_cache import ArtifactCache
from atelier_infer.errors import InferError, RefusedError, UnknownVersionError

log = logging.getLogger(__name__)


class IntegrityMonitor:
    """A thread that downloads the files of every version that an alias draws with, one after the other.

    Args:
        shelf: downloads and compares.
        versions: which versions are served.
        every_s: between two looks at all of them.
    """

    def __init__(self, *, shelf: ArtifactCache, versions: AliasTracker, every_s: float) -> None:
        self._shelf, self._versions, self._every_s = shelf, versions, every_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._problems: dict[tuple[int, str], str] = {}
        self._thread = threading.Thread(target=self._run, name="integrity", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it after the version that is being compared, or with the process."""
        self._stopping.set()

    def problem(self, number: int, digest: str) -> str | None:
        """What the last look found about a version that is drawn with files of this digest."""
        with self._lock:
            return self._problems.get((number, digest))

    @property
    def count(self) -> int:
        """Served versions whose files were changed or removed."""
        with self._lock:
            return len(self._problems)

    def look(self) -> None:
        """One look at everything; what cannot be asked now keeps its last answer."""
        serving = self._versions.snapshot()[1].values()
        served = {(version.number, version.adapter.digest) for version in serving if version.number and version.adapter}
        with self._lock:
            self._problems = {place: text for place, text in self._problems.items() if place in served}
        for number, digest in sorted(served):
            if self._stopping.is_set():
                return
            try:
                self._shelf.compare(number, digest)
            except (RefusedError, UnknownVersionError) as error:
                self._found(number, digest, str(error))
            except InferError:
                continue
            else:
                with self._lock:
                    self._problems.pop((number, digest), None)

    def _found(self, number: int, digest: str, reason: str) -> None:
        text = f"the files of version {number} were changed since it was promoted; what was promoted is still drawn: {reason}"
        with self._lock:
            known, self._problems[number, digest] = self._problems.get((number, digest)), text
        if known != text:
            fields = {"version": number, "adapter_digest": digest, "reason": reason}
            log.error("files of a served version were changed", extra={"fields": fields})

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            try:
                self.look()
            except Exception:
                log.exception("comparing the files of served versions failed")
