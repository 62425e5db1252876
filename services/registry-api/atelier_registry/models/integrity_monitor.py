"""Compares the files of every version that an alias points at with the digest that was decided on, again and again.

A changed file changes no image, since infer serves that digest or nothing. But somebody has to hear of it.
"""

from __future__ import annotations

import logging
import threading

from atelier_contracts.names import KIND_ADAPTER

from atelier_registry.models.artifact_digests import AdapterDigests
from atelier_registry.models.model_registry import ModelRegistry, Version
from atelier_registry.periodic_task import PeriodicTask
from atelier_registry.storage.ledger import Ledger

log = logging.getLogger(__name__)


class IntegrityMonitor:
    """A thread that reads all files of one version after the other, at most one at a time.

    Args:
        registry: where the files are.
        ledger: where the aliases' decisions are.
        digests: what is compared.
        every_s: between two looks at everything.
    """

    def __init__(self, registry: ModelRegistry, ledger: Ledger, digests: AdapterDigests, every_s: float) -> None:
        self._registry, self._ledger, self._digests = registry, ledger, digests
        self._task = PeriodicTask("comparing the files of versions", self.look, every_s)
        self._lock = threading.Lock()
        self._problems: dict[tuple[str, int], str] = {}

    def start(self) -> None:
        """Starts the thread."""
        self._task.start()

    def stop(self) -> None:
        """Ends it after the version that is being read."""
        self._task.stop()

    def problem(self, model: str, number: int) -> str | None:
        """What the last look found wrong with a version's files."""
        with self._lock:
            return self._problems.get((model, number))

    def problems(self, model: str) -> list[str]:
        """Of every version of a model that an alias points at."""
        with self._lock:
            return [text for (name, _), text in sorted(self._problems.items()) if name == model]

    @property
    def count(self) -> int:
        """Versions whose files are not those that were decided on."""
        with self._lock:
            return len(self._problems)

    def look(self) -> None:
        """One look at everything. A tag that says something else than the decision is set right.

        Raises:
            UnavailableError: MLflow or the database does not answer.
        """
        pointed = {(move.model, move.to_version) for move in self._ledger.aliases().values() if move.to_version is not None}
        with self._lock:
            self._problems = {place: text for place, text in self._problems.items() if place in pointed}
        for name, number in sorted(pointed):
            if self._task.stopping:
                return
            version = self._registry.version(name, number)
            if version is not None and version.kind == KIND_ADAPTER:
                self._compare(version)

    def _compare(self, version: Version) -> None:
        decided = self._digests.decided(version)
        if decided is None:
            return
        if not self._digests.publish(version, decided):
            return
        found = self._digests.present(version)
        place = version.model, version.number
        if found.digest == decided:
            with self._lock:
                self._problems.pop(place, None)
            return
        told = found.problem or f"they have the digest {found.digest}"
        text = (
            f"the files of version {version.number} are not those that were decided on, with the digest {decided}: {told}; "
            "infer serves what was decided on while it has it, and nothing else: put the files back, or promote another version"
        )
        with self._lock:
            known = self._problems.get(place)
            self._problems[place] = text
        if known != text:
            fields = {
                "model": version.model,
                "version": version.number,
                "decided_digest": decided,
                "found_digest": found.digest,
            }
            log.error("files of a version were changed", extra={"fields": fields | {"reason": found.problem}})
