"""Keeps the cache folder below its limit, least recently used first. Deleting any of it costs a download, nothing else."""

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
"""Folders that are used and removed as a whole."""

INCOMING = ("incoming-*", "graphs/*/incoming-*")
"""Unfinished downloads and graphs."""


@dataclass(frozen=True)
class CacheEntry:
    """A folder.

    Attributes:
        used_at: seconds since the epoch; for an unfinished folder, the last write to it.
    """

    path: Path
    nbytes: int
    used_at: float


class CacheEvictor:
    """May be used from any thread.

    Args:
        folder: of bundles, adapters and graphs.
        limit_bytes: of all of them together.
        fresh_s: entries used more recently stay, because a thread may be about to read them.
        abandoned_s: an unfinished folder without writes for this long was left by a process that was killed.
    """

    def __init__(self, folder: Path, limit_bytes: int, *, fresh_s: float = 60.0, abandoned_s: float = 900.0) -> None:
        self._folder, self._limit, self._fresh_s, self._abandoned_s = folder, limit_bytes, fresh_s, abandoned_s
        self._digests_in_use: Callable[[], set[str]] = set
        self._lock = threading.Lock()

    def protect(self, digests_in_use: Callable[[], set[str]]) -> None:
        """Entries whose names begin with one of the returned digests are never removed."""
        self._digests_in_use = digests_in_use

    def record_use(self, path: Path) -> None:
        """Also evicts other entries if the folder is too large."""
        _touch(path)
        self.trim()

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in (*self._entries(ENTRIES), *self._entries(INCOMING)))

    def trim(self) -> None:
        """Removes abandoned entries, then the least recently used ones until the rest is below the limit."""
        with self._lock:
            now, entries = time.time(), self._entries(ENTRIES)
            unfinished = self._entries(INCOMING)
            for entry in unfinished:
                if now - entry.used_at > self._abandoned_s:
                    _remove(entry, "abandoned")
            size = sum(entry.nbytes for entry in (*entries, *unfinished) if entry.path.exists())
            if size <= self._limit:
                return
            in_use = tuple(self._digests_in_use())
            for entry in sorted(entries, key=lambda entry: entry.used_at):
                if size <= self._limit:
                    return
                if now - entry.used_at > self._fresh_s and not entry.path.name.startswith(in_use):
                    _remove(entry, "least recently used")
                    size -= entry.nbytes
            if size > self._limit:
                fields = {"mib": round(size / 2**20), "limit_mib": round(self._limit / 2**20)}
                log.warning("cache folder exceeds cache_limit_mib; all of it is in use", extra={"fields": fields})

    def _entries(self, patterns: tuple[str, ...]) -> list[CacheEntry]:
        paths = {path for pattern in patterns for path in self._folder.glob(pattern)}
        if patterns is ENTRIES:
            paths = {path for path in paths if not path.name.startswith("incoming-")}
        return [entry for path in paths if (entry := _entry(path, newest=patterns is INCOMING))]


def _entry(path: Path, *, newest: bool) -> CacheEntry | None:
    try:
        used_at = path.stat().st_mtime
        stats = list(_stats(path))
    except OSError:  # removed concurrently
        return None
    if newest:
        used_at = max([used_at, *(stat.st_mtime for stat in stats)])
    return CacheEntry(path, sum(stat.st_size for stat in stats), used_at)


def _stats(path: Path) -> Iterator[os.stat_result]:
    for folder, _, files in os.walk(path):
        for name in files:
            yield (Path(folder) / name).lstat()


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError as error:
        log.warning("cannot update the access time", extra={"fields": {"folder": str(path), "reason": str(error)}})


def _remove(entry: CacheEntry, reason: str) -> None:
    shutil.rmtree(entry.path, ignore_errors=True)
    fields = {"folder": str(entry.path), "mib": round(entry.nbytes / 2**20, 1), "reason": reason}
    log.info("cache entry removed", extra={"fields": fields})
