"""Compares the files of every version that an alias points at with the digest in its decision, at regular intervals.

infer serves files of that digest or nothing, so a changed file changes no image; the monitor makes it known.
"""

from __future__ import annotations

import logging
import threading

from atelier_contracts.names import KIND_ADAPTER
from atelier_service.periodic_task import PeriodicTask

from atelier_registry.errors import RegistryApiError
from atelier_registry.models.artifact_digests import AdapterDigests
from atelier_registry.models.model_registry import ModelRegistry, Version
from atelier_registry.storage.ledger import Ledger

log = logging.getLogger(__name__)


class IntegrityMonitor:
    """A thread that checks one version after the other. Safe to use from several threads.

    Args:
        registry: the files.
        ledger: the decisions.
        digests: reads and looks up digests.
        interval_s: between two checks of every version.
    """

    def __init__(self, registry: ModelRegistry, ledger: Ledger, digests: AdapterDigests, interval_s: float) -> None:
        self._registry, self._ledger, self._digests = registry, ledger, digests
        self._task = PeriodicTask("integrity check", self.check, interval_s, RegistryApiError)
        self._lock = threading.Lock()
        self._problems: dict[tuple[str, int], str] = {}

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        """Stops after the version that is being read; does not wait for it."""
        self._task.stop()

    def problem(self, model: str, version: int) -> str | None:
        """What the last check found wrong with a version's files."""
        with self._lock:
            return self._problems.get((model, version))

    def problems(self, model: str) -> list[str]:
        """Problems of every version of a model that an alias points at."""
        with self._lock:
            return [text for (name, _), text in sorted(self._problems.items()) if name == model]

    @property
    def count(self) -> int:
        """Number of versions whose files differ from those decided on."""
        with self._lock:
            return len(self._problems)

    def check(self) -> None:
        """Checks every version once, and corrects digest tags that differ from the decision.

        Raises:
            UnavailableError: MLflow or the database does not answer.
        """
        moves = self._ledger.alias_moves.latest_by_alias().values()
        targets = {(move.model, move.to_version) for move in moves if move.to_version is not None}
        with self._lock:
            self._problems = {target: text for target, text in self._problems.items() if target in targets}
        for name, number in sorted(targets):
            if self._task.stopping:
                return
            version = self._registry.version(name, number)
            if version is not None and version.kind == KIND_ADAPTER:
                self._check_version(version)

    def _check_version(self, version: Version) -> None:
        decided = self._digests.decided(version)
        if decided is None or not self._digests.tag(version, decided):
            return
        identity = self._digests.read(version)
        target = version.model, version.number
        if identity.digest == decided:
            with self._lock:
                self._problems.pop(target, None)
            return
        difference = identity.problem or f"they now have the digest {identity.digest}"
        text = (
            f"the files of version {version.number} were changed after the decision, which recorded the digest {decided}: "
            f"{difference}; infer serves only the recorded files: restore them, or promote another version"
        )
        with self._lock:
            known = self._problems.get(target)
            self._problems[target] = text
        if known != text:
            fields = {
                "model": version.model,
                "version": version.number,
                "decided_digest": decided,
                "current_digest": identity.digest,
                "reason": identity.problem,
            }
            log.error("files of a version changed", extra={"fields": fields})
