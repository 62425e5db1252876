"""One lock per key, so that loading one version does not wait for another."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary


class _Lock:
    """threading.Lock cannot be referenced weakly."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class KeyedLocks:
    """A lock exists while a thread holds it or waits for it. May be used from any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: WeakValueDictionary[Hashable, _Lock] = WeakValueDictionary()

    @contextmanager
    def held(self, key: Hashable) -> Iterator[None]:
        with self._guard:
            lock = self._locks.setdefault(key, _Lock())
        with lock.lock:
            yield
