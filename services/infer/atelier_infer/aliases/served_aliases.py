"""What each alias serves: its version, the one before it, failures of its target, and reverts after invalid images."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from atelier_infer.artifacts.version_loader import Version
from atelier_infer.errors import InferError, RevertedError

log = logging.getLogger(__name__)

MAX_INVALID_IMAGES = 2
"""After this many blank or non-finite images in a row an alias reverts to the version it served before."""


@dataclass(frozen=True)
class Failure:
    """Why an alias does not serve its target.

    Attributes:
        retry_at: of `time.monotonic`.
    """

    number: int
    error: InferError
    attempts: int
    retry_at: float


class Revert(NamedTuple):
    """An alias serves the version before again."""

    alias: str
    version: int
    serving: int
    reason: str


class ServedAliases:
    """May be used from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._serving: dict[str, Version] = {}
        self._previous: dict[str, Version] = {}
        self._reverted: dict[str, int] = {}
        self._invalid_images: Counter[int] = Counter()
        self._failures: dict[str, Failure] = {}

    def snapshot(self) -> tuple[dict[str, Version], dict[str, Failure]]:
        """Served versions and failures by alias; copies."""
        with self._changed:
            return dict(self._serving), dict(self._failures)

    def versions(self, *, previous: bool = False) -> list[Version]:
        """Served versions, and on request those that aliases can revert to."""
        with self._changed:
            return [*self._serving.values(), *(self._previous.values() if previous else ())]

    def get(self, alias: str) -> Version | None:
        with self._changed:
            return self._serving.get(alias)

    def by_number(self, number: int) -> Version | None:
        with self._changed:
            return next((version for version in self._serving.values() if version.number == number), None)

    def failure(self, alias: str) -> Failure | None:
        with self._changed:
            return self._failures.get(alias)

    def reverted(self, alias: str) -> int | None:
        """The version whose images were invalid, until the alias serves another one that it names."""
        with self._changed:
            return self._reverted.get(alias)

    def wait(self, alias: str, timeout_s: float) -> None:
        """Until the alias serves a version or failed to."""
        with self._changed:
            self._changed.wait_for(lambda: alias in self._serving or alias in self._failures, timeout_s)

    def serve(self, alias: str, version: Version) -> None:
        with self._changed:
            replaced, _ = self._serving.get(alias), self._previous.pop(alias, None)
            if replaced and replaced.bundle is version.bundle:  # another base model would stay in memory for this alone
                self._previous[alias] = replaced
            self._serving[alias] = version
            if version.number is not None:
                self._invalid_images[version.number] = 0
            self._failures.pop(alias, None)
            self._reverted.pop(alias, None)
            self._changed.notify_all()

    def confirm(self, alias: str, number: int) -> bool:
        """Whether the alias serves this target already; forgets a failure of another one."""
        with self._changed:
            version = self._serving.get(alias)
            if version is None or version.number != number:
                return False
            self._failures.pop(alias, None)
            if self._reverted.get(alias) != number:
                self._reverted.pop(alias, None)
            return True

    def fail(self, alias: str, failure: Failure) -> None:
        with self._changed:
            self._failures[alias] = failure
            self._changed.notify_all()

    def remove(self, alias: str) -> None:
        with self._changed:
            for table in (self._serving, self._previous, self._reverted):
                table.pop(alias, None)

    def retain(self, aliases: Iterable[str]) -> list[str]:
        """Removes all other aliases and returns those that were served."""
        aliases = set(aliases)
        with self._changed:
            gone = [alias for alias in self._serving if alias not in aliases]
            self._failures = {alias: failure for alias, failure in self._failures.items() if alias in aliases}
        for alias in gone:
            self.remove(alias)
        return gone

    def clear(self) -> None:
        with self._changed:
            for table in (self._serving, self._previous, self._reverted, self._invalid_images, self._failures):
                table.clear()

    def record_outcome(self, numbers: Iterable[int], *, valid: bool) -> list[Revert]:
        """Counts an image of these versions, valid if it is finite and not blank, and returns the reverts that follow."""
        reverts = []
        with self._changed:
            for number in numbers:
                self._invalid_images[number] = 0 if valid else self._invalid_images[number] + 1
                if self._invalid_images[number] >= MAX_INVALID_IMAGES:
                    reverts += self._revert(number)
        return reverts

    def _revert(self, number: int) -> list[Revert]:
        reverts = []
        for alias in [alias for alias, version in self._serving.items() if version.number == number]:
            first, self._reverted[alias] = alias not in self._reverted, number
            previous = self._previous.pop(alias, None)
            if previous is None or previous.number is None:
                if first:
                    log.error("no previous version to revert to", extra={"fields": {"alias": alias, "version": number}})
                continue
            self._serving[alias] = previous
            reason = (
                f"version {number} generated {MAX_INVALID_IMAGES} blank or non-finite images in a row; version "
                f"{previous.number} serves as {alias} again until the alias names another version; check the version's run, "
                "then roll back or promote another version"
            )
            self._failures[alias] = Failure(number, RevertedError(reason), 1, math.inf)
            reverts.append(Revert(alias, number, previous.number, reason))
        return reverts
