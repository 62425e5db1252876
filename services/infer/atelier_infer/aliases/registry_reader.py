"""Reads the aliases from the tracking server, and the last known ones from disk while it is down."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from atelier_contracts.styles import RecordedEdits
from pydantic import ValidationError

from atelier_infer.aliases import last_known_aliases
from atelier_infer.aliases.last_known_aliases import LastKnownAliases, PromotedVersion
from atelier_infer.artifacts.version_loader import Version
from atelier_infer.errors import NotPromotedError, TrackingError
from atelier_infer.registry.model_store import ModelStore, RegisteredModel

log = logging.getLogger(__name__)


class RegistryReader:
    """May be used from any thread.

    Args:
        store: the model registry.
        model: the registered model that is served.
        cache_dir: for the last known aliases.
        require_promotion: whether an alias may serve only versions that registry-api decided on.
    """

    def __init__(self, *, store: ModelStore, model: str, cache_dir: Path, require_promotion: bool) -> None:
        self._store, self._model, self._cache_dir, self._require_promotion = store, model, cache_dir, require_promotion
        self._lock = threading.Lock()
        self._registered: RegisteredModel | None = None
        self._reachable = True
        self._restored: LastKnownAliases | None = None
        self._written: LastKnownAliases | None = None
        self._style_tag: str | None = None
        self._style_edits = RecordedEdits(decision=0)

    @property
    def registered(self) -> RegisteredModel | None:
        """As last read; None before the first answer."""
        return self._registered

    @property
    def reachable(self) -> bool:
        """Whether the last read succeeded."""
        return self._reachable

    @property
    def style_edits(self) -> RecordedEdits:
        """Of the model's style, as last read; the last known ones while the tracking server is down."""
        return self._style_edits

    def read(self) -> tuple[RegisteredModel, bool]:
        """The registered model, and whether it was deleted and created again since the last read.

        Raises:
            TrackingError: the tracking server does not answer.
        """
        try:
            registered = self._store.registered_model()
        except TrackingError as error:
            with self._lock:
                before, self._reachable = self._reachable, False
            if before:
                log.warning("tracking unavailable; loaded versions stay in use", extra={"fields": {"reason": str(error)}})
            raise
        with self._lock:
            if not self._reachable:
                log.info("tracking available again")
            last, self._registered, self._reachable = self._registered, registered, True
            self._read_style(registered.style_tag)
        return registered, last is not None and last.generation not in ("", registered.generation)

    def restore(self) -> RegisteredModel | None:
        """The last known aliases from disk, once, if the tracking server never answered this process."""
        with self._lock:
            if self._registered is not None or self._restored is not None:
                return None
        stored = last_known_aliases.read(self._cache_dir, self._model)
        if stored is None:
            return None
        versions = {alias: promoted.version for alias, promoted in stored.aliases.items()}
        log.warning("tracking unavailable; serving the last known aliases", extra={"fields": versions})
        registered = RegisteredModel(stored.generation, versions)
        with self._lock:
            self._restored, self._registered, self._style_edits = stored, registered, stored.style
        return registered

    def remember(self, registered: RegisteredModel, serving: Mapping[str, Version]) -> None:
        """Stores what the aliases serve for a start while the tracking server is down."""
        if not self._reachable or self._registered is not registered:
            return
        aliases = {
            alias: PromotedVersion(version=version.number, adapter_digest=version.adapter.digest)
            for alias, version in serving.items()
            if version.number and version.adapter
        }
        known = LastKnownAliases(model=self._model, generation=registered.generation, aliases=aliases, style=self._style_edits)
        if known != self._written:
            last_known_aliases.write(self._cache_dir, known)
            self._written = known

    def _read_style(self, tag: str | None) -> None:
        """Keeps the edits of a tag that cannot be read. Called with the lock held."""
        if tag is None:
            self._style_edits = RecordedEdits(decision=0)
        elif tag != self._style_tag:
            try:
                self._style_edits = RecordedEdits.model_validate_json(tag)
            except ValidationError as error:
                log.warning("invalid style tag; the style stays", extra={"fields": {"reason": str(error)[:300]}})
        self._style_tag = tag

    def promoted_digest(self, alias: str, number: int) -> str | None:
        """The digest that registry-api decided on; the last known one while the tracking server is down.

        Raises:
            NotPromotedError: registry-api never decided on this version.
            InferError: see `ModelStore.promoted_digest`.
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
                f"{alias} names version {number}, but registry-api has not decided on its files: promote the version, or wait "
                "until registry-api has recorded what an earlier release promoted; without a registry-api set "
                "ATELIER_INFER_REQUIRE_PROMOTION=false"
            )
        return digest
