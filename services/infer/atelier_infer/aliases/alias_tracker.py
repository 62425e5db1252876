"""Follows the aliases of the served model: polls them, loads new targets, and finds the version that a request names."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from atelier_contracts import names
from atelier_contracts.styles import RecordedEdits

from atelier_infer.aliases.registry_reader import RegistryReader
from atelier_infer.aliases.served_aliases import Failure, ServedAliases
from atelier_infer.artifacts.version_loader import Version, VersionLoader
from atelier_infer.errors import DrainingError, InferError, TrackingError, UnknownVersionError, VersionLoadingError
from atelier_infer.registry.model_store import RegisteredModel
from atelier_infer.registry.not_found import NotFoundErrors

log = logging.getLogger(__name__)


class VersionSelector(NamedTuple):
    """Names one version; none of the three means the champion."""

    version: int | None = None
    alias: str | None = None
    base: bool = False


class AliasTracker:
    """Switches an alias only when its new target is loaded and checked; until then it serves the old version.

    Args:
        reader: reads the aliases.
        loader: loads and checks versions.
        not_found: builds the errors for aliases and versions that do not exist.
        poll_s: interval between two reads of the aliases.
        permanent: aliases that are loaded before a request names them, besides the champion, and stay loaded.

        load_timeout_s: how long a request waits for an alias that is being loaded for the first time.
        max_retry_s: a refused target is retried after poll_s, twice that, four times, … up to this interval.
    """

    def __init__(
        self,
        *,
        reader: RegistryReader,
        loader: VersionLoader,
        not_found: NotFoundErrors,
        poll_s: float,
        permanent: Iterable[str] = (),
        load_timeout_s: float = 10.0,
        max_retry_s: float = 60.0,
    ) -> None:
        self._reader, self._loader, self._not_found = reader, loader, not_found
        self._poll_s, self._load_timeout_s, self._max_retry_s = poll_s, load_timeout_s, max_retry_s
        self._aliases = ServedAliases()
        self._permanent = {names.CHAMPION, *permanent}
        self._lock, self._followed = threading.Lock(), dict.fromkeys(self._permanent)  # least recently requested first
        self._wake, self._first_poll, self._stopping = threading.Event(), threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="aliases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Does not wait for a download."""
        self._stopping = True
        self._wake.set()

    def refresh(self) -> None:
        """Makes the thread read the aliases now; returns at once."""
        self._wake.set()

    @property
    def ready(self) -> bool:
        """Whether the tracking server answered and loading the champion was tried once."""
        return self._first_poll.is_set()

    @property
    def stale(self) -> bool:
        """Whether some alias does not serve its target, or the tracking server does not answer."""
        return bool(self._aliases.snapshot()[1]) or not self._reader.reachable

    def snapshot(self) -> tuple[RegisteredModel | None, dict[str, Version], dict[str, Failure]]:
        """The registered model, and served versions and failures by alias."""
        return self._reader.registered, *self._aliases.snapshot()

    @property
    def style_edits(self) -> RecordedEdits:
        """Of the model's style, as last read."""
        return self._reader.style_edits

    def reverted(self, alias: str) -> int | None:
        """The version whose images were invalid, until the alias serves another one that it names."""
        return self._aliases.reverted(alias)

    def cached(self, selector: VersionSelector) -> Version | None:
        """The version if it is in memory; never waits."""
        if selector.version is not None:
            return self._aliases.by_number(selector.version) or self._loader.cached(selector.version)
        version = self._aliases.get(selector.alias or names.CHAMPION)
        return Version(None, None, version.bundle) if version and selector.base else version

    def find(self, selector: VersionSelector) -> Version:
        """The version, loaded now if necessary. May wait for a download.

        Raises:
            NoChampionError, UnknownAliasError, UnknownVersionError: there is no such version.
            VersionLoadingError: the alias's version is being loaded for the first time.
            RefusedError, GenerationError: it failed its checks.
            TrackingError, CacheError: it could not be downloaded.
        """
        if selector.version is not None:
            return self.cached(selector) or self._load(selector.version)
        alias = selector.alias or names.CHAMPION
        registered = self._reader.registered
        if registered is None or alias not in registered.aliases:
            registered = self._read_or_last()
            if alias not in registered.aliases:
                raise self._not_found.alias(alias, registered)
        with self._lock:
            self._followed.pop(alias, None)
            self._followed[alias] = None
        self._wake.set()
        self._aliases.wait(alias, self._load_timeout_s)
        failure = self._aliases.failure(alias)
        if version := self.cached(selector):
            return version
        if failure:
            raise failure.error.with_traceback(None)
        raise VersionLoadingError(
            f"version {registered.aliases[alias]}, the {alias}, is being loaded; send the request again in 5 s", 5
        )

    def record_outcome(self, numbers: Iterable[int], *, valid: bool) -> None:
        """Counts an image of these versions; after several invalid ones in a row their aliases revert."""
        for revert in self._aliases.record_outcome(numbers, valid=valid):
            log.error("alias reverted", extra={"fields": revert._asdict()})

    def poll(self) -> None:
        """Reads the aliases and loads new targets. Called by the thread."""
        try:
            registered = self._read()
        except TrackingError:
            if not (restored := self._reader.restore()):
                return
            registered = restored
        for alias in self._aliases.retain(registered.aliases):
            log.info("alias deleted", extra={"fields": {"alias": alias}})
        with self._lock:
            targets = {alias: registered.aliases[alias] for alias in sorted(self._followed) if alias in registered.aliases}
        if champion := targets.pop(names.CHAMPION, None):
            self._update(names.CHAMPION, champion)
        self._first_poll.set()  # readiness does not wait for the other aliases
        for alias, number in targets.items():
            self._update(alias, number)
        self._drop_aliases_beyond_limit()
        self._loader.drop_unused_bundles(self._aliases.versions())
        self._reader.remember(registered, self._aliases.snapshot()[0])

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self.poll()
            except Exception:
                log.exception("alias poll failed")
            self._wake.wait(self._poll_s)

    def _read(self) -> RegisteredModel:
        registered, recreated = self._reader.read()
        if recreated:
            log.info("model deleted or created again; loaded versions dropped")
            self._aliases.clear()
            self._loader.clear()
        return registered

    def _read_or_last(self) -> RegisteredModel:
        try:
            return self._read()
        except TrackingError:
            if (registered := self._reader.registered) is None:
                raise
            return registered

    def _update(self, alias: str, number: int) -> None:
        """Makes the alias serve its target, or records why it cannot."""
        if self._aliases.confirm(alias, number):
            return
        failure = self._aliases.failure(alias)
        if failure and failure.number != number:
            failure = None
        if failure and time.monotonic() < failure.retry_at:
            return
        serving = self._aliases.get(alias)
        fields: dict[str, object] = {"alias": alias, "version": number, "serving": serving.number if serving else None}
        try:
            digest = self._reader.promoted_digest(alias, number)
            version = self._loader.load(number, to_serve=True, promoted_digest=digest)
        except DrainingError:
            return
        except InferError as error:
            if not failure or str(failure.error) != str(error):
                log.error("version refused; the alias keeps its version", extra={"fields": fields | {"reason": str(error)}})
            attempts = failure.attempts + 1 if failure else 1
            delay_s = min(self._max_retry_s, self._poll_s * 2.0 ** min(attempts - 1, 30))
            self._aliases.fail(alias, Failure(number, error, attempts, time.monotonic() + delay_s))
            return
        self._aliases.serve(alias, version)
        log.info("alias updated", extra={"fields": fields})

    def _drop_aliases_beyond_limit(self) -> None:
        """Drops aliases that are not permanent, least recently requested first, until the adapters of the others fit."""
        while self._loader.set_served(self._aliases.versions(previous=True)) > self._loader.cache_bytes:
            with self._lock:
                candidates = [alias for alias in self._followed if alias not in self._permanent and self._aliases.get(alias)]
                if not candidates:
                    return
                alias = candidates[0]
                del self._followed[alias]
            self._aliases.remove(alias)
            log.info("alias dropped from memory until requested again", extra={"fields": {"alias": alias}})

    def _load(self, number: int) -> Version:
        try:
            return self._loader.load(number)
        except UnknownVersionError as error:
            raise self._not_found.version(error) from error
