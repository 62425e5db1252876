"""Which version draws: aliases followed live, versions by number, the base alone."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from atelier_contracts import names

from atelier_infer.aliases import last_known_aliases
from atelier_infer.aliases.last_known_aliases import LastKnownAliases, Promoted
from atelier_infer.artifacts.version_loader import Version, VersionLoader
from atelier_infer.errors import (
    DrainingError,
    InferError,
    NotPromotedError,
    RevertedError,
    StagingError,
    TrackingError,
    UnknownVersionError,
)
from atelier_infer.registry.model_store import ModelStore, View
from atelier_infer.registry.not_found import NotFoundMessages

log = logging.getLogger(__name__)

SLOWEST_RETRY_S = 60.0
"""A target that failed its checks is tried again after alias_poll_s, twice that, four times, … and then this often."""

PATIENCE_S = 10.0
"""So long a request waits for an alias that is being loaded for the first time."""

STRIKES = 2
"""So many blank or non-finite images in a row, and the version that an alias served before serves again."""


class VersionSelector(NamedTuple):
    """One adapter asked for; none of the three means the champion."""

    version: int | None = None
    alias: str | None = None
    base: bool = False


@dataclass(frozen=True)
class Failure:
    """Why an alias does not serve its target."""

    number: int
    error: InferError
    tries: int
    retry_at: float


ReportRevert = Callable[[str, int, int, str], None]
"""Called with alias, version, the version that serves again, and why. It must be quick: a lock is held meanwhile."""


def log_revert(alias: str, version: int, serving: int, reason: str) -> None:
    """Writes it to the log."""
    log.error("stepped back", extra={"fields": {"alias": alias, "version": version, "serving": serving, "reason": reason}})


class AliasTracker:
    """Swaps an alias only when its new target is loaded and checked; until then the old one serves.

    Args:
        store: the model registry.
        loader: what loads and checks.
        absent: what is said of an alias or a version that does not exist.
        model: the registered model that is served.
        cache_dir: where the aliases are kept for a start while tracking is down.
        alias_poll_s: between two looks at the aliases.
        followed: aliases that are loaded before anybody asks for them, after the champion, and stay loaded.
        require_promotion: whether an alias draws only with versions that registry-api decided on.
        report_revert: told of each alias that goes back to the version before it.
        made_anew: told when version numbers mean something else from now on.
    """

    def __init__(
        self,
        *,
        store: ModelStore,
        loader: VersionLoader,
        absent: NotFoundMessages,
        model: str,
        cache_dir: Path,
        alias_poll_s: float,
        followed: Iterable[str] = (),
        require_promotion: bool = True,
        report_revert: ReportRevert = log_revert,
        made_anew: Callable[[], None] = lambda: None,
    ) -> None:
        self._report_revert, self._made_anew = report_revert, made_anew
        self._store, self._loader, self._absent, self._poll_s = store, loader, absent, alias_poll_s
        self._model, self._cache_dir, self._require_promotion = model, cache_dir, require_promotion
        self._restored: LastKnownAliases | None = None
        self._written: LastKnownAliases | None = None
        self._changed = threading.Condition()
        self._wake, self._first_round, self._stopping = threading.Event(), threading.Event(), False
        self._view: View | None = None
        self._unreachable: TrackingError | None = None
        self._always = {names.CHAMPION, *followed}
        self._followed = dict.fromkeys(self._always)
        """The aliases that are loaded; the one asked for least recently comes first."""
        self._serving: dict[str, Version] = {}
        self._before: dict[str, Version] = {}
        self._stepped_back: dict[str, int] = {}
        self._strikes: Counter[int] = Counter()
        self._failures: dict[str, Failure] = {}
        self._thread = threading.Thread(target=self._follow_aliases, name="aliases", daemon=True)

    def start(self) -> None:
        """Starts the thread that follows the aliases."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it, without waiting for a download; nothing is lost but that."""
        self._stopping = True
        self._wake.set()

    def look_again(self) -> None:
        """Makes the thread look at the aliases now; returns at once."""
        self._wake.set()

    @property
    def answered(self) -> bool:
        """Whether tracking answered and the champion was tried once."""
        return self._first_round.is_set()

    @property
    def stale(self) -> bool:
        """Whether some alias does not serve its target, or tracking does not answer now."""
        with self._changed:
            return bool(self._failures or self._unreachable)

    def snapshot(self) -> tuple[View | None, dict[str, Version], dict[str, Failure]]:
        """What is known, served and failed, by alias."""
        with self._changed:
            return self._view, dict(self._serving), dict(self._failures)

    def reverted(self, alias: str) -> int | None:
        """The version that drew nothing or infinity, from then until the alias serves another one that it names."""
        with self._changed:
            return self._stepped_back.get(alias)

    def cached(self, wish: VersionSelector) -> Version | None:
        """The version asked for when it is in memory; never waits."""
        with self._changed:
            if wish.version is None:
                served = self._serving.get(wish.alias or names.CHAMPION)
                return Version(None, None, served.bundle) if served and wish.base else served
            by_alias = next((served for served in self._serving.values() if served.number == wish.version), None)
        return by_alias or self._loader.cached(wish.version)

    def find(self, wish: VersionSelector) -> Version:
        """The version asked for, loaded now if need be. May wait for a download.

        Raises:
            NoChampionError, UnknownAliasError, UnknownVersionError: there is no such version.
            StagingError: the alias's version is being loaded for the first time.
            RefusedError, DrawingError: it failed its checks.
            TrackingError, CacheError: it could not be fetched.
        """
        if wish.version is not None:
            return self.cached(wish) or self._by_number(wish.version)
        alias = wish.alias or names.CHAMPION
        with self._changed:
            view = self._view
        if view is None or alias not in view.aliases:
            view = self._look_or_last()
            if alias not in view.aliases:
                raise self._absent.alias(alias, view)
        with self._changed:
            self._followed.pop(alias, None)
            self._followed[alias] = None
            self._wake.set()
            self._changed.wait_for(lambda: alias in self._serving or alias in self._failures, PATIENCE_S)
            failure = self._failures.get(alias)
        if found := self.cached(wish):
            return found
        if failure:
            raise failure.error.with_traceback(None)
        raise StagingError(f"version {view.aliases[alias]}, the {alias}, is being loaded; send the request again in 5 s", 5)

    def report_outcome(self, numbers: Iterable[int], *, sound: bool) -> None:
        """Told of each image: whether it was finite and not blank. After some in a row that were not, aliases step back."""
        with self._changed:
            for number in numbers:
                self._strikes[number] = 0 if sound else self._strikes[number] + 1
                if self._strikes[number] >= STRIKES:
                    self._step_back(number)

    def _step_back(self, number: int) -> None:
        for alias, version in self._serving.items():
            if version.number != number:
                continue
            first, self._stepped_back[alias] = alias not in self._stepped_back, number
            if not (before := self._before.pop(alias, None)):
                if first:
                    log.error("nothing to step back to", extra={"fields": {"alias": alias, "version": number}})
                continue
            self._serving[alias] = before
            error = RevertedError(
                f"version {number} drew {STRIKES} blank or non-finite images in a row; version {before.number} serves as "
                f"{alias} again until the alias names another version; look at its run, and roll back or promote another one"
            )
            self._failures[alias] = Failure(number, error, 1, math.inf)
            assert before.number is not None  # no alias serves the base
            self._report_revert(alias, number, before.number, str(error))

    def poll(self) -> None:
        """One round: looks at the aliases and stages those whose target changed. Called by the thread."""
        try:
            view = self._look()
        except TrackingError:
            if not (restored := self._restore()):
                return
            view = restored
        with self._changed:
            for alias in [alias for alias in self._serving if alias not in view.aliases]:
                log.info("alias is gone", extra={"fields": {"alias": alias}})
                del self._serving[alias]
                self._before.pop(alias, None)
                self._stepped_back.pop(alias, None)
            self._failures = {alias: failure for alias, failure in self._failures.items() if alias in view.aliases}
            targets = {alias: view.aliases[alias] for alias in sorted(self._followed) if alias in view.aliases}
        if champion := targets.pop(names.CHAMPION, None):
            self._stage(names.CHAMPION, champion)
        self._first_round.set()  # nobody has to wait for the others
        for alias, number in targets.items():
            self._stage(alias, number)
        self._fit_into_memory()
        with self._changed:
            served = list(self._serving.values())
        self._loader.drop_unused(served)
        self._remember(view)

    def _fit_into_memory(self) -> None:
        """Drops aliases that were asked for, least recently asked first, until what aliases draw with fits."""
        while True:
            with self._changed:
                used = self._loader.hold([*self._serving.values(), *self._before.values()])
                candidates = [alias for alias in self._followed if alias not in self._always and alias in self._serving]
                if used <= self._loader.cache_bytes or not candidates:
                    return
                alias = candidates[0]
                del self._followed[alias], self._serving[alias]
                self._before.pop(alias, None)
            log.info("alias dropped from memory until somebody asks for it", extra={"fields": {"alias": alias}})

    def _restore(self) -> View | None:
        """The aliases as they were when tracking last answered, from this disk; once, before it ever answered this process."""
        with self._changed:
            if self._view is not None or self._restored is not None:
                return None
        found = last_known_aliases.read(self._cache_dir, self._model)
        if found is None:
            return None
        log.warning(
            "tracking does not answer; serving what this disk holds",
            extra={"fields": {alias: promoted.version for alias, promoted in found.aliases.items()}},
        )
        view = View(found.generation, {alias: promoted.version for alias, promoted in found.aliases.items()})
        with self._changed:
            self._restored, self._view = found, view
        return view

    def _remember(self, view: View) -> None:
        with self._changed:
            if self._unreachable or self._view is not view:
                return
            aliases = {
                alias: Promoted(version=version.number, adapter_digest=version.adapter.digest)
                for alias, version in self._serving.items()
                if version.number and version.adapter
            }
        found = LastKnownAliases(model=self._model, generation=view.generation, aliases=aliases)
        if found != self._written:
            last_known_aliases.write(self._cache_dir, found)
            self._written = found

    def _promoted_digest(self, alias: str, number: int) -> str | None:
        """What registry-api decided on; while tracking is down what it had decided on when it last answered.

        Raises:
            NotPromotedError: it never decided on this version.
            InferError: see `store.Store.promoted_digest`.
        """
        try:
            digest = self._store.promoted_digest(number)
        except TrackingError:
            known = self._restored.aliases.get(alias) if self._restored else None
            if known is None or known.version != number:
                raise
            return known.adapter_digest
        if digest is None and self._require_promotion:
            raise NotPromotedError(
                f"{alias} points at version {number}, and registry-api has not decided on its files: promote it there, or wait "
                "until it has recorded what an earlier release promoted; without a registry-api set "
                "ATELIER_INFER_REQUIRE_PROMOTION=false"
            )
        return digest

    def _follow_aliases(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self.poll()
            except Exception:
                log.exception("a round of following the aliases failed")
            self._wake.wait(self._poll_s)

    def _look(self) -> View:
        try:
            view = self._store.look()
        except TrackingError as error:
            with self._changed:
                if self._unreachable is None:
                    log.warning(
                        "tracking does not answer; what is loaded keeps serving", extra={"fields": {"reason": str(error)}}
                    )
                self._unreachable = error
            raise
        with self._changed:
            if self._unreachable:
                log.info("tracking answers again")
            if self._view and self._view.generation not in ("", view.generation):
                log.info("the model was deleted or made anew; everything loaded is dropped")
                self._serving.clear()
                self._before.clear()
                self._stepped_back.clear()
                self._strikes.clear()
                self._failures.clear()
                self._loader.forget()
                self._made_anew()
            self._unreachable, self._view = None, view
        return view

    def _look_or_last(self) -> View:
        """The aliases now; while tracking is down those that were known last."""
        try:
            return self._look()
        except TrackingError:
            with self._changed:
                if self._view is None:
                    raise
                return self._view

    def _stage(self, alias: str, number: int) -> None:
        with self._changed:
            serving, failure = self._serving.get(alias), self._failures.get(alias)
            if serving and serving.number == number:
                self._failures.pop(alias, None)
                if self._stepped_back.get(alias) != number:
                    self._stepped_back.pop(alias, None)
                return
        if failure and failure.number != number:
            failure = None
        if failure and time.monotonic() < failure.retry_at:
            return
        fields: dict[str, object] = {"alias": alias, "version": number, "serving": serving.number if serving else None}
        try:
            version = self._loader.load(number, to_serve=True, promoted_digest=self._promoted_digest(alias, number))
        except DrainingError:
            return
        except InferError as error:
            tries = failure.tries + 1 if failure else 1
            if not failure or str(failure.error) != str(error):
                log.error("version refused; what was served stays", extra={"fields": fields | {"reason": str(error)}})
            retry_at = time.monotonic() + min(SLOWEST_RETRY_S, self._poll_s * 2.0 ** min(tries - 1, 30))
            with self._changed:
                self._failures[alias] = Failure(number, error, tries, retry_at)
                self._changed.notify_all()
            return
        with self._changed:
            self._before.pop(alias, None)
            if serving and serving.bundle is version.bundle:  # another base would stay in memory for this alone
                self._before[alias] = serving
            self._serving[alias] = version
            self._strikes[number] = 0
            self._failures.pop(alias, None)
            self._stepped_back.pop(alias, None)
            self._changed.notify_all()
        log.info("alias moved", extra={"fields": fields})

    def _by_number(self, number: int) -> Version:
        try:
            return self._loader.load(number)
        except UnknownVersionError as error:
            raise self._absent.version(error) from error
