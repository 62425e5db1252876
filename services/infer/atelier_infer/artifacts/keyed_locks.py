"""A lock for each key: what is loaded waits for nothing but itself."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary


class _Lock:
    """A lock that can be referred to weakly."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class KeyedLocks:
    """Locks that exist as long as somebody holds them or waits for them. Safe to use from several threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: WeakValueDictionary[Hashable, _Lock] = WeakValueDictionary()

    @contextmanager
    def held(self, key: Hashable) -> Iterator[None]:
        """Waits for the key's lock, and holds it meanwhile."""
        with self._guard:
            mine = self._locks.setdefault(key, _Lock())
        with mine.lock:
            yield
