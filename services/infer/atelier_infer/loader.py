"""Versions in memory: loaded after their checks, kept while there is room and use."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest

from atelier_infer.adapter import Adapter, load_adapter
from atelier_infer.bundle import Bundle
from atelier_infer.errors import RefusedError
from atelier_infer.shelf import Shelf

log = logging.getLogger(__name__)

REMEMBERED_S = 10.0
"""For so long a refused version is refused again without another download."""


@dataclass(frozen=True)
class Version:
    """What draws a picture. Without an adapter it is the base."""

    number: int | None
    adapter: Adapter | None
    bundle: Bundle

    @property
    def label(self) -> str:
        """What the answer's header says."""
        return names.BASE_VERSION if self.number is None else str(self.number)


class Loader:
    """Adapters by version number, least recently used first out; bundles by digest, dropped when nothing needs them.

    What was handed out stays alive with its holder: a drawing or an alias never loses its arrays or sessions.
    `_lock` guards the dictionaries and is held briefly; `_loading` is held while one version is fetched and checked.
    """

    def __init__(
        self,
        *,
        shelf: Shelf,
        open_bundle: Callable[[Path], Bundle],
        probe: Callable[[Bundle, Adapter], None],
        adapter_cache_mib: int,
    ) -> None:
        self._shelf, self._open_bundle, self._probe = shelf, open_bundle, probe
        self._cache_bytes = adapter_cache_mib * 2**20
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._adapters: OrderedDict[int, Adapter] = OrderedDict()
        self._bundles: dict[str, Bundle] = {}
        self._latest_bundle = ""
        self._refused: dict[int, tuple[RefusedError, float]] = {}

    def at_hand(self, number: int) -> Version | None:
        """The version when it is in memory; never waits."""
        with self._lock:
            adapter = self._adapters.get(number)
            bundle = self._bundles.get(adapter.manifest.bundle_digest) if adapter else None
            if not (adapter and bundle):
                return None
            self._adapters.move_to_end(number)
            return Version(number, adapter, bundle)

    def load(self, number: int) -> Version:
        """The version, fetched if need be: digests, names, shapes, finite weights and one finite step before it may serve.

        Raises:
            UnknownVersionError: there is no such version.
            RefusedError, DrawingError: it failed a check.
            TrackingError, CacheError: it could not be fetched.
        """
        with self._loading:
            if found := self.at_hand(number):
                return found
            refusal, until = self._refused.get(number, (None, 0.0))
            if refusal and time.monotonic() < until:
                raise refusal.with_traceback(None)
            try:
                return self._load(number)
            except RefusedError as error:
                self._refused[number] = error, time.monotonic() + REMEMBERED_S
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
            self._refused.clear()

    def loaded(self) -> tuple[dict[int, Adapter], dict[str, Bundle]]:
        """Copies of what is in memory."""
        with self._lock:
            return dict(self._adapters), dict(self._bundles)

    def _load(self, number: int) -> Version:
        started = time.monotonic()
        folder = self._shelf.adapter(number)
        manifest = AdapterManifest.model_validate_json((folder / names.ADAPTER_FILE).read_bytes())
        bundle = self._bundle(manifest.bundle_digest)
        adapter = load_adapter(folder, bundle.manifest)
        self._probe(bundle, adapter)
        with self._lock:
            self._adapters[number] = adapter
            while self._adapters and sum(item.nbytes for item in self._adapters.values()) > self._cache_bytes:
                self._adapters.popitem(last=False)
        seconds = round(time.monotonic() - started, 3)
        log.info("version loaded", extra={"fields": {"version": number, "adapter_digest": adapter.digest, "seconds": seconds}})
        return Version(number, adapter, bundle)

    def _bundle(self, digest: str) -> Bundle:
        with self._lock:
            self._latest_bundle = digest
            if found := self._bundles.get(digest):
                return found
        bundle = self._open_bundle(self._shelf.bundle(digest))
        with self._lock:
            self._bundles[digest] = bundle
        return bundle
