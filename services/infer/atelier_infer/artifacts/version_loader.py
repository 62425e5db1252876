"""Versions in memory: loaded after their checks, kept while there is room and use."""

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
from atelier_contracts.manifests import AdapterManifest

from atelier_infer.artifacts.artifact_cache import ArtifactCache
from atelier_infer.artifacts.keyed_locks import KeyedLocks
from atelier_infer.errors import MemoryFullError, RefusedError
from atelier_infer.pipeline.adapter import Adapter, load_adapter
from atelier_infer.pipeline.bundle import Bundle

log = logging.getLogger(__name__)

REMEMBERED_S = 10.0
"""For so long a refused version is refused again without another download."""


@dataclass(frozen=True)
class Version:
    """What draws an image. Without an adapter it is the base."""

    number: int | None
    adapter: Adapter | None
    bundle: Bundle

    @property
    def label(self) -> str:
        """What the answer's header says."""
        return names.BASE_VERSION if self.number is None else str(self.number)


class VersionLoader:
    """Adapters by version number, least recently used first out; bundles by digest, dropped when nothing needs them.

    An adapter that a request under way uses is pinned: it goes last, and while such ones fill the memory no other is loaded by
    number. What was handed out stays alive with its holder: a drawing or an alias never loses its arrays or sessions.
    `_lock` guards the dictionaries and is held briefly; a version or a bundle that is fetched holds a lock of its own.
    """

    def __init__(
        self,
        *,
        shelf: ArtifactCache,
        open_bundle: Callable[[Path], Bundle],
        probe: Callable[[Bundle, Adapter], None],
        adapter_cache_mib: int,
    ) -> None:
        self._shelf, self._open_bundle, self._probe = shelf, open_bundle, probe
        self._cache_bytes = adapter_cache_mib * 2**20
        self._lock, self._loading = threading.Lock(), KeyedLocks()
        self._held: dict[int, Adapter] = {}
        self._adapters: OrderedDict[int, Adapter] = OrderedDict()
        self._pins: Counter[int] = Counter()
        self._bundles: dict[str, Bundle] = {}
        self._latest_bundle = ""
        self._refused: dict[tuple[int, str | None], tuple[RefusedError, float]] = {}

    def cached(self, number: int) -> Version | None:
        """The version when it is in memory; never waits."""
        with self._lock:
            adapter = self._adapters.get(number)
            bundle = self._bundles.get(adapter.manifest.bundle_digest) if adapter else None
            if not (adapter and bundle):
                return None
            self._adapters.move_to_end(number)
            return Version(number, adapter, bundle)

    @contextmanager
    def pinned(self, versions: Sequence[Version]) -> Iterator[None]:
        """Keeps their adapters in memory meanwhile."""
        held = {version.number: version.adapter for version in versions if version.number is not None and version.adapter}
        with self._lock:
            for number, adapter in held.items():
                if self._adapters.setdefault(number, adapter) is adapter:
                    self._pins[number] += 1
        try:
            yield
        finally:
            with self._lock:
                for number, adapter in held.items():
                    if self._adapters.get(number) is adapter and self._pins[number]:
                        self._pins[number] -= 1
                self._evict()

    def hold(self, versions: Iterable[Version]) -> int:
        """Counts the adapters that aliases draw with: they stay in memory, and leave so much less for others.

        Returns:
            Their bytes.
        """
        with self._lock:
            self._held = {version.number: version.adapter for version in versions if version.number and version.adapter}
            self._adapters |= self._held
            self._evict()
            return sum(adapter.nbytes for adapter in self._held.values())

    @property
    def cache_bytes(self) -> int:
        """What all adapters may take."""
        return self._cache_bytes

    def base(self, digest: str) -> Version:
        """A bundle without an adapter, opened if need be.

        Raises:
            RefusedError: it failed a check.
            TrackingError, CacheError: it could not be fetched.
        """
        return Version(None, None, self._bundle(digest))

    def load(self, number: int, *, to_serve: bool = False, promoted_digest: str | None = None) -> Version:
        """The version, fetched if need be: digests, names, shapes, finite weights and one finite step before it may serve.

        Args:
            number: of the served model.
            to_serve: for an alias or a promotion, which get memory whatever requests use.
            promoted_digest: of the files that it must have; None: see `shelf.Shelf.adapter`.

        Raises:
            MemoryFullError: requests under way use all memory.
            UnknownVersionError: there is no such version.
            RefusedError, DrawingError: it failed a check.
            TrackingError, CacheError: it could not be fetched.
        """
        with self._loading.held(number):
            found = self.cached(number)
            if found and found.adapter and promoted_digest in (None, found.adapter.digest):
                return found
            with self._lock:
                refusal, until = self._refused.get((number, promoted_digest), (None, 0.0))
            if refusal and time.monotonic() < until:
                raise refusal.with_traceback(None)
            try:
                return self._load(number, to_serve, promoted_digest)
            except RefusedError as error:
                with self._lock:
                    self._refused[number, promoted_digest] = error, time.monotonic() + REMEMBERED_S
                raise

    def drop_unused(self, served: Iterable[Version]) -> None:
        """Closes every bundle but those of the versions given and the one used last."""
        needed = {version.bundle.digest for version in served} | {self._latest_bundle}
        with self._lock:
            for digest in set(self._bundles) - needed:
                log.info("bundle dropped", extra={"fields": {"bundle_digest": digest}})
                del self._bundles[digest]

    def forget(self) -> None:
        """Drops every adapter: their numbers mean something else now."""
        with self._lock:
            self._adapters.clear()
            self._held.clear()
            self._pins.clear()
            self._refused.clear()

    def loaded(self) -> tuple[dict[int, Adapter], dict[str, Bundle]]:
        """Copies of what is in memory."""
        with self._lock:
            return dict(self._adapters), dict(self._bundles)

    def _load(self, number: int, to_serve: bool, promoted_digest: str | None) -> Version:
        started = time.monotonic()
        folder = self._shelf.adapter(number, promoted_digest)
        manifest = AdapterManifest.model_validate_json((folder / names.ADAPTER_FILE).read_bytes())
        bundle = self._bundle(manifest.bundle_digest)
        adapter = load_adapter(folder, bundle.manifest)
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
            used = sum(item.nbytes for held, item in self._adapters.items() if self._pins[held])
        if used and used + adapter.nbytes > self._cache_bytes:
            raise MemoryFullError(
                f"version {number} needs {adapter.nbytes / 2**20:.1f} MiB; requests under way use {used / 2**20:.1f} of the "
                f"{self._cache_bytes / 2**20:.0f} MiB for adapters; send the request again later, or raise adapter_cache_mib",
                5,
            )

    def _evict(self) -> None:
        """Drops adapters that neither requests nor aliases use, least recently used first, until the rest fits.

        Called with the lock held.
        """
        size = sum(item.nbytes for item in self._adapters.values())
        for number in [number for number in self._adapters if not self._pins[number] and number not in self._held]:
            if size <= self._cache_bytes:
                return
            size -= self._adapters.pop(number).nbytes
            del self._pins[number]

    def _bundle(self, digest: str) -> Bundle:
        with self._loading.held(digest):
            with self._lock:
                self._latest_bundle = digest
                if found := self._bundles.get(digest):
                    return found
            bundle = self._open_bundle(self._shelf.bundle(digest))
            with self._lock:
                self._bundles[digest] = bundle
            return bundle
