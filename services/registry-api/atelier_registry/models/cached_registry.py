"""What MLflow answered a moment ago, for those who only look. Whoever decides asks MLflow itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Annotated, Any, TypeVar

from cachetools import LRUCache, TTLCache
from fastapi import Header

from atelier_registry.models.model_registry import FILES, READY, Image, Model, Page, Point, RegistryReader, Run, Version

T = TypeVar("T")

_ANSWERS = 200  # a page of a hundred versions has some 100 KB
_FILES = 500  # versions; some KB each

CacheControl = Annotated[
    str | None, Header(max_length=200, description="no-cache: ask MLflow, whatever was answered a moment ago")
]


class CachedRegistry:
    """A registry to read from whose answers are `max_age_s` old at most. Safe to use from several threads.

    A page that is opened asks for a model several times within a second, and so do its other readers: a question is asked once.
    What this service itself changes is seen at once, since `forget` follows each change. That something does not exist is never
    remembered. The files of a complete version do not change, and are kept until others crowd them out.

    Args:
        registry: who is asked.
        max_age_s: 0 asks every time.
    """

    def __init__(self, registry: RegistryReader, max_age_s: float) -> None:
        self.asked = registry
        """The registry itself."""
        self._lock = threading.Lock()
        self._kept: TTLCache[tuple[Any, ...], Any] = TTLCache(_ANSWERS, max_age_s)
        self._files: LRUCache[tuple[str, int, datetime, frozenset[str]], dict[str, str]] = LRUCache(_FILES)
        self._under_way: dict[tuple[Any, ...], Future[Any]] = {}

    def reader(self, cache_control: str | None) -> RegistryReader:
        """This, or the registry itself for a request whose Cache-Control says so."""
        return self.asked if cache_control and "no-cache" in cache_control.lower() else self

    def forget(self) -> None:
        """Everything is asked for again, also what is being asked now."""
        with self._lock:
            self._kept.clear()
            self._under_way.clear()

    def ping(self) -> None:
        """See `RegistryReader`. Always asked."""
        self.asked.ping()

    def models(self, limit: int, page_token: str | None) -> Page[Model]:
        """See `RegistryReader`."""
        return self._recent(self.asked.models, limit, page_token)

    def model(self, name: str) -> Model | None:
        """See `RegistryReader`."""
        return self._recent(self.asked.model, name)

    def versions(self, name: str, limit: int, page_token: str | None) -> Page[Version]:
        """See `RegistryReader`."""
        return self._recent(self.asked.versions, name, limit, page_token)

    def version(self, name: str, number: int) -> Version | None:
        """See `RegistryReader`."""
        return self._recent(self.asked.version, name, number)

    def run(self, run_id: str) -> Run | None:
        """See `RegistryReader`."""
        return self._recent(self.asked.run, run_id)

    def runs(self, run_ids: Sequence[str]) -> Mapping[str, Run]:
        """See `RegistryReader`."""
        return self._recent(self.asked.runs, tuple(run_ids))

    def curve(self, run_id: str, metric: str) -> Sequence[Point]:
        """See `RegistryReader`."""
        return self._recent(self.asked.curve, run_id, metric)

    def images(self, run_id: str) -> Sequence[Image]:
        """See `RegistryReader`."""
        return self._recent(self.asked.images, run_id)

    def image(self, run_id: str, path: str) -> bytes | None:
        """See `RegistryReader`. Always asked: browsers keep images themselves."""
        return self.asked.image(run_id, path)

    def files(self, name: str, number: int, wanted: Collection[str] = FILES) -> dict[str, str]:
        """See `RegistryReader`."""
        version = self.version(name, number)
        if version is None or version.status != READY:
            return self.asked.files(name, number, wanted)
        place = (name, number, version.created_at, frozenset(wanted))  # a deleted version's number may be given out again
        with self._lock:
            if place in self._files:
                return dict(self._files[place])
        found = self.asked.files(name, number, wanted)
        if found.keys() == set(wanted):
            with self._lock:
                self._files[place] = dict(found)
        return found

    def _recent(self, question: Callable[..., T], *about: Any) -> T:
        """The answer kept, or that of whoever asks the same just now, or a new one."""
        place = (question.__name__, *about)
        with self._lock:
            if place in self._kept:
                kept: T = self._kept[place]
                return kept
            theirs = self._under_way.get(place)
            if theirs is None:
                ours = self._under_way[place] = Future[T]()
        if theirs is not None:
            joined: T = theirs.result()
            return joined
        try:
            answer = question(*about)
        except BaseException as error:
            ours.set_exception(error)
            with self._lock:
                self._drop(place, ours)
            raise
        ours.set_result(answer)
        with self._lock:
            # a change since then may have come after the answer was made
            if self._drop(place, ours) and answer and not (isinstance(answer, Page) and not answer.items):
                self._kept[place] = answer
        return answer

    def _drop(self, place: tuple[Any, ...], future: Future[Any]) -> bool:
        """Takes a question off the list; False where it was forgotten meanwhile."""
        if self._under_way.get(place) is not future:
            return False
        del self._under_way[place]
        return True
