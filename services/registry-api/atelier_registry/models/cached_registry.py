"""A cache of MLflow's recent answers, for requests that only read. Decisions ask MLflow itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, TypeVar

from cachetools import LRUCache, TTLCache

from atelier_registry.models.model_registry import FILES, READY, Image, Model, Page, Point, RegistryReader, Run, Version

T = TypeVar("T")

_MAX_ANSWERS = 200  # a page of a hundred versions takes about 100 KB
_MAX_FILE_SETS = 500  # one per version, some KB each


class CachedRegistry:
    """A `RegistryReader` whose answers are at most `ttl_s` old. Safe to use from several threads.

    Concurrent equal requests share one call. `invalidate` follows each change by this service, so its own changes are visible
    at once. That something does not exist is never cached. The files of a complete version do not change, so they stay cached
    as long as there is room.

    Args:
        source: the registry.
        ttl_s: 0 turns the cache of answers off.
    """

    def __init__(self, source: RegistryReader, ttl_s: float) -> None:
        self.source = source
        self._lock = threading.Lock()
        self._answers: TTLCache[tuple[Any, ...], Any] = TTLCache(_MAX_ANSWERS, ttl_s)
        self._files: LRUCache[tuple[str, int, datetime, frozenset[str]], dict[str, str]] = LRUCache(_MAX_FILE_SETS)
        self._pending: dict[tuple[Any, ...], Future[Any]] = {}

    def reader(self, cache_control: str | None) -> RegistryReader:
        """This cache, or the source for a request with `Cache-Control: no-cache`."""
        return self.source if cache_control and "no-cache" in cache_control.lower() else self

    def invalidate(self) -> None:
        """Drops every answer, including those that are still on their way."""
        with self._lock:
            self._answers.clear()
            self._pending.clear()

    def ping(self) -> None:
        """Not cached."""
        self.source.ping()

    def models(self, limit: int, page_token: str | None) -> Page[Model]:
        return self._cached(self.source.models, limit, page_token)

    def model(self, name: str) -> Model | None:
        return self._cached(self.source.model, name)

    def versions(self, name: str, limit: int, page_token: str | None) -> Page[Version]:
        return self._cached(self.source.versions, name, limit, page_token)

    def version(self, name: str, number: int) -> Version | None:
        return self._cached(self.source.version, name, number)

    def run(self, run_id: str) -> Run | None:
        return self._cached(self.source.run, run_id)

    def runs(self, run_ids: Sequence[str]) -> Mapping[str, Run]:
        return self._cached(self.source.runs, tuple(run_ids))

    def curve(self, run_id: str, metric: str) -> Sequence[Point]:
        return self._cached(self.source.curve, run_id, metric)

    def images(self, run_id: str) -> Sequence[Image]:
        return self._cached(self.source.images, run_id)

    def image(self, run_id: str, path: str) -> bytes | None:
        """Not cached: browsers cache images themselves."""
        return self.source.image(run_id, path)

    def preview(self, name: str, number: int) -> bytes | None:
        """Not cached, as images."""
        return self.source.preview(name, number)

    def files(self, name: str, number: int, wanted: Collection[str] = FILES) -> dict[str, str]:
        version = self.version(name, number)
        if version is None or version.status != READY:
            return self.source.files(name, number, wanted)
        key = (name, number, version.created_at, frozenset(wanted))  # MLflow reuses the number of a deleted version
        with self._lock:
            if key in self._files:
                return dict(self._files[key])
        files = self.source.files(name, number, wanted)
        if files.keys() == set(wanted):
            with self._lock:
                self._files[key] = dict(files)
        return files

    def _cached(self, method: Callable[..., T], *args: Any) -> T:
        """The cached answer, or that of an equal call that is running, or of a new call."""
        key = (method.__name__, *args)
        with self._lock:
            if key in self._answers:
                cached: T = self._answers[key]
                return cached
            running = self._pending.get(key)
            if running is None:
                future = self._pending[key] = Future[T]()
        if running is not None:
            shared: T = running.result()
            return shared
        try:
            answer = method(*args)
        except BaseException as error:
            future.set_exception(error)
            with self._lock:
                self._remove_pending(key, future)
            raise
        future.set_result(answer)
        with self._lock:
            # where `invalidate` came in between, the answer may be older than the change
            if self._remove_pending(key, future) and answer and not (isinstance(answer, Page) and not answer.items):
                self._answers[key] = answer
        return answer

    def _remove_pending(self, key: tuple[Any, ...], future: Future[Any]) -> bool:
        """False where `invalidate` removed it before."""
        if self._pending.get(key) is not future:
            return False
        del self._pending[key]
        return True
