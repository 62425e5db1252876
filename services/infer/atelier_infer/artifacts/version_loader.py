"""Versions in memory: loaded after their checks, kept while they are in use or there is room."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from atelier_contracts import names

from atelier_infer.artifacts.artifact_cache import ArtifactCache
from atelier_infer.artifacts.keyed_locks import KeyedLocks
from atelier_infer.errors import OutOfMemoryError, RefusedError
from atelier_infer.pipeline.adapter import Adapter, load_adapter
from atelier_infer.pipeline.bundle import Bundle

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """Without number and adapter it is the base model."""

    number: int | None
    adapter: Adapter | None
    bundle: Bundle

    @property
    def label(self) -> str:
        """As in the response header."""
        return names.BASE_VERSION if self.number is None else str(self.number)


class VersionLoader:
    """Adapters by version number with LRU eviction; bundles by digest, dropped when no version needs them.

    An adapter in use by a request is pinned and is not evicted; while pinned adapters fill the cache, no other version is
    loaded by number. A returned version stays alive with its holder, so an image or an alias never loses its arrays or
    sessions. `_lock` guards the dictionaries and is held briefly; loading a version or a bundle holds a lock of its own.

    Args:
        cache: files on disk.
        open_bundle: opens a folder with a verified bundle.
        probe: runs one step with a new version; raises GenerationError.
        adapter_cache_mib: memory for adapters.
        refusal_ttl_s: how long a refused version is refused again without another download.
    """

    def __init__(
        self,
        *,
        cache: ArtifactCache,
        open_bundle: Callable[[Path], Bundle],
        probe: Callable[[Bundle, Adapter], None],
        adapter_cache_mib: int,
        refusal_ttl_s: float = 10.0,
    ) -> None:
        self._cache, self._open_bundle, self._probe = cache, open_bundle, probe
        self._cache_bytes, self._refusal_ttl_s = adapter_cache_mib * 2**20, refusal_ttl_s
        self._lock, self._loading = threading.Lock(), KeyedLocks()
        self._served: dict[int, Adapter] = {}
        self._adapters: OrderedDict[int, Adapter] = OrderedDict()
        self._pins: Counter[int] = Counter()
        self._bundles: dict[str, Bundle] = {}
        self._latest_bundle = ""
        self._refused: dict[tuple[int, str | None], tuple[RefusedError, float]] = {}

    def cached(self, number: int) -> Version | None:
        """The version if it is in memory; never waits."""
        with self._lock:
            adapter = self._adapters.get(number)
            bundle = self._bundles.get(adapter.manifest.bundle_digest) if adapter else None
            if not (adapter and bundle):
                return None
            self._adapters.move_to_end(number)
            return Version(number, adapter, bundle)

    @contextmanager
    def pinned(self, versions: Sequence[Version]) -> Iterator[None]:
        """Keeps their adapters in memory during the block."""
        pinned = {version.number: version.adapter for version in versions if version.number is not None and version.adapter}
        with self._lock:
            for number, adapter in pinned.items():
                if self._adapters.setdefault(number, adapter) is adapter:
                    self._pins[number] += 1
        try:
            yield
        finally:
            with self._lock:
                for number, adapter in pinned.items():
                    if self._adapters.get(number) is adapter and self._pins[number]:
                        self._pins[number] -= 1
                self._evict()

    def set_served(self, versions: Iterable[Version]) -> int:
        """The adapters that aliases serve stay in memory and count against the limit.

        Returns:
            Their bytes.
        """
        with self._lock:
            self._served = {version.number: version.adapter for version in versions if version.number and version.adapter}
            self._adapters |= self._served
            self._evict()
            return sum(adapter.nbytes for adapter in self._served.values())

    @property
    def cache_bytes(self) -> int:
        """The limit."""
        return self._cache_bytes

    def base(self, digest: str) -> Version:
        """A bundle without an adapter, opened if necessary.

        Raises:
            RefusedError: it failed a check.
            TrackingError, CacheError: it could not be downloaded.
        """
        return Version(None, None, self._bundle(digest))

    def load(self, number: int, *, to_serve: bool = False, promoted_digest: str | None = None) -> Version:
        """Downloads the version if necessary and checks digests, names, shapes, finite weights and one finite step.

        Args:
            number: of the served model.
            to_serve: for an alias or a promotion, which get memory whatever requests use.
            promoted_digest: the digest that its files must have; None: see `ArtifactCache.adapter`.

        Raises:
            OutOfMemoryError: pinned adapters use all memory.
            UnknownVersionError: there is no such version.
            RefusedError, GenerationError: it failed a check.
            TrackingError, CacheError: it could not be downloaded.
        """
        with self._loading.held(number):
            cached = self.cached(number)
            if cached and cached.adapter and promoted_digest in (None, cached.adapter.digest):
                return cached
            with self._lock:
                refusal, until = self._refused.get((number, promoted_digest), (None, 0.0))
            if refusal and time.monotonic() < until:
                raise refusal.with_traceback(None)
            try:
                return self._load(number, to_serve, promoted_digest)
            except RefusedError as error:
                with self._lock:
                    self._refused[number, promoted_digest] = error, time.monotonic() + self._refusal_ttl_s
                raise

    def drop_unused_bundles(self, served: Iterable[Version]) -> None:
        """Closes all bundles except those of the given versions and the most recently used one."""
        needed = {version.bundle.digest for version in served} | {self._latest_bundle}
        with self._lock:
            for digest in set(self._bundles) - needed:
                log.info("bundle dropped", extra={"fields": {"bundle_digest": digest}})
                del self._bundles[digest]

    def clear(self) -> None:
        """Drops all adapters, because the model was created again and its version numbers have started over."""
        with self._lock:
            self._adapters.clear()
            self._served.clear()
            self._pins.clear()
            self._refused.clear()

    def loaded(self) -> tuple[dict[int, Adapter], dict[str, Bundle]]:
        """Adapters by version number and bundles by digest; copies."""
        with self._lock:
            return dict(self._adapters), dict(self._bundles)

    def _load(self, number: int, to_serve: bool, promoted_digest: str | None) -> Version:
        started = time.monotonic()
        cached = self._cache.adapter(number, promoted_digest)
        bundle = self._bundle(cached.manifest.bundle_digest)
        adapter = load_adapter(cached.folder, cached.manifest, bundle.manifest)
        if not to_serve:
            self._check_room(number, adapter)
        self._probe(bundle, adapter)
        with self._lock:
            self._adapters[number] = adapter
            self._evict()
        seconds = round(time.monotonic() - started, 3)
        log.info("version loaded", extra={"fields": {"version": number, "adapter_digest": adapter.digest, "seconds": seconds}})
        return Version(number, adapter, bundle)

    def _check_room(self, number: int, adapter: Adapter) -> None:
        with self._lock:
            used = sum(item.nbytes for other, item in self._adapters.items() if self._pins[other])
        if used and used + adapter.nbytes > self._cache_bytes:
            raise OutOfMemoryError(
                f"version {number} needs {adapter.nbytes / 2**20:.1f} MiB; requests under way use {used / 2**20:.1f} of the "
                f"{self._cache_bytes / 2**20:.0f} MiB for adapters; send the request again later, or raise adapter_cache_mib",
                5,
            )

    def _evict(self) -> None:
        """Called with the lock held."""
        size = sum(item.nbytes for item in self._adapters.values())
        for number in [number for number in self._adapters if not self._pins[number] and number not in self._served]:
            if size <= self._cache_bytes:
                return
            size -= self._adapters.pop(number).nbytes
            del self._pins[number]

    def _bundle(self, digest: str) -> Bundle:
        with self._loading.held(digest):
            with self._lock:
                self._latest_bundle = digest
                if loaded := self._bundles.get(digest):
                    return loaded
            bundle = self._open_bundle(self._cache.bundle(digest))
            with self._lock:
                self._bundles[digest] = bundle
            return bundle
