"""The size of the cache folder: what was used longest ago goes first. Deleting any of it costs a download, nothing else."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

ENTRIES = ("bundles/*", "adapters/*", "graphs/*/*")
"""Where folders lie that are used and removed as a whole."""

INCOMING = ("incoming-*", "graphs/*/incoming-*")
"""Where downloads and graphs lie that are not finished."""


@dataclass(frozen=True)
class Entry:
    """A folder in the cache."""

    path: Path
    nbytes: int
    used_at: float
    """Seconds since the epoch; of an unfinished one, when something was last written to it."""


class CacheEvictor:
    """Keeps a cache folder below a limit. May be used from any thread.

    Args:
        folder: of bundles, adapters and graphs.
        limit_bytes: of all of them together.
        fresh_s: what was used less than so long ago stays: somebody may be about to read it.
        abandoned_s: an unfinished folder that nobody wrote to for so long was left by a process that was killed.
    """

    def __init__(self, folder: Path, limit_bytes: int, *, fresh_s: float = 60.0, abandoned_s: float = 900.0) -> None:
        self._folder, self._limit, self._fresh_s, self._abandoned_s = folder, limit_bytes, fresh_s, abandoned_s
        self._needed: Callable[[], set[str]] = set
        self._lock = threading.Lock()

    def keep(self, needed: Callable[[], set[str]]) -> None:
        """Entries whose names begin with one of these digests are never removed."""
        self._needed = needed

    def used(self, path: Path) -> None:
        """Told of each use of an entry; removes others where the folder is too large."""
        _touch(path)
        self.trim()

    @property
    def nbytes(self) -> int:
        """Of everything in the folder that counts."""
        return sum(entry.nbytes for entry in (*self._found(ENTRIES), *self._found(INCOMING)))

    def trim(self) -> None:
        """Removes what was abandoned, and then what was used longest ago until the rest is below the limit."""
        with self._lock:
            now, entries = time.time(), self._found(ENTRIES)
            unfinished = self._found(INCOMING)
            for entry in unfinished:
                if now - entry.used_at > self._abandoned_s:
                    _remove(entry, "abandoned")
            size = sum(entry.nbytes for entry in (*entries, *unfinished) if entry.path.exists())
            if size <= self._limit:
                return
            needed = tuple(self._needed())
            for entry in sorted(entries, key=lambda entry: entry.used_at):
                if size <= self._limit:
                    return
                if now - entry.used_at > self._fresh_s and not entry.path.name.startswith(needed):
                    _remove(entry, "least recently used")
                    size -= entry.nbytes
            if size > self._limit:
                fields = {"mib": round(size / 2**20), "limit_mib": round(self._limit / 2**20)}
                log.warning("the cache folder is above cache_limit_mib: all of it is in use", extra={"fields": fields})

    def _found(self, patterns: tuple[str, ...]) -> list[Entry]:
        paths = {path for pattern in patterns for path in self._folder.glob(pattern)}
        if patterns is ENTRIES:
            paths = {path for path in paths if not path.name.startswith("incoming-")}
        return [entry for path in paths if (entry := _entry(path, newest=patterns is INCOMING))]


def _entry(path: Path, *, newest: bool) -> Entry | None:
    try:
        used_at = path.stat().st_mtime
        stats = list(_stats(path))
    except OSError:  # removed meanwhile
        return None
    if newest:
        used_at = max([used_at, *(stat.st_mtime for stat in stats)])
    return Entry(path, sum(stat.st_size for stat in stats), used_at)


def _stats(path: Path) -> Iterator[os.stat_result]:
    for folder, _, files in os.walk(path):
        for name in files:
            yield (Path(folder) / name).lstat()


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError as error:
        log.warning("the use of a cached folder cannot be noted", extra={"fields": {"folder": str(path), "reason": str(error)}})


def _remove(entry: Entry, why: str) -> None:
    shutil.rmtree(entry.path, ignore_errors=True)
    fields = {"folder": str(entry.path), "mib": round(entry.nbytes / 2**20, 1), "why": why}
    log.info("removed from the cache folder", extra={"fields": fields})
