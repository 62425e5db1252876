"""The only writer of aliases. It keeps the decisions and MLflow consistent, also across interruptions.

1. `begun` is recorded. 2. The version is tagged with its digest, and the alias is set in MLflow. 3. `done` and the event are
recorded in one transaction. The next decision on the alias, and every start, resolves what an interruption left pending: the
alias itself shows whether step 2 took place. An alias that points somewhere without a decision was changed outside
registry-api, which is recorded as a decision of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from atelier_contracts.names import KIND_ADAPTER, TAG_PROMOTED_DIGEST, TAG_RETIRED
from atelier_contracts.promotion import Decision

from atelier_registry.decisions.rollback_stack import build_stack
from atelier_registry.errors import InvalidArgumentError
from atelier_registry.models.artifact_digests import AdapterDigests
from atelier_registry.models.catalogue import find_model, unknown_version
from atelier_registry.models.model_registry import Model, ModelRegistry
from atelier_registry.storage.entries import DecisionFacts, EntryKind
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import AliasLocks

log = logging.getLogger(__name__)

OUTSIDE_ACTOR = "outside"
"""Actor of a change made with another MLflow client; MLflow does not say who made it."""

OWN_ACTOR = "registry-api"
"""Actor of an entry that resolves an interruption."""


class AliasWriter:
    """Moves aliases.

    Args:
        registry: the aliases.
        ledger: the decisions.
        digests: of the versions' files.
        locks: allow one decision at a time.
    """

    def __init__(self, registry: ModelRegistry, ledger: Ledger, digests: AdapterDigests, locks: AliasLocks) -> None:
        self._registry, self._ledger, self._digests, self._locks = registry, ledger, digests, locks

    @contextmanager
    def locked(self, name: str, alias: str) -> Iterator[Model]:
        """Excludes other decisions on the alias. Yields the model as it is then, with every move recorded.

        Raises:
            UnknownModelError: there is no such model.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        with self._locks.hold(name, alias):
            model = find_model(self._registry, name)
            self._resolve_pending(name, alias, model.aliases.get(alias))
            self._record_outside_move(name, alias, model.aliases.get(alias))
            yield model

    @contextmanager
    def locked_model(self, name: str) -> Iterator[Model]:
        """Excludes other decisions on the whole model. Errors are those of `locked`."""
        with self._locks.hold(name, None):
            model = find_model(self._registry, name)
            self._resolve_pending_retirements(name)
            yield model

    def move(self, decision: Decision, actor: str) -> Decision:
        """Carries out a decision that was begun.

        The decision stays pending where MLflow does not answer, since the alias may have moved all the same.

        Raises:
            UnknownVersionError: the version was deleted meanwhile.
            InvalidArgumentError: MLflow does not accept the alias.
            UnavailableError: MLflow or the database does not answer.
        """
        assert decision.alias is not None
        assert decision.to_version is not None
        name, number = decision.model, decision.to_version
        try:
            moved = self._tag_digest(name, number, decision.adapter_digest) and (
                number == decision.from_version or self._registry.set_alias(name, decision.alias, number)
            )
        except InvalidArgumentError as error:
            self._ledger.close(decision, "failed", actor, str(error))
            raise
        if not moved:
            self._ledger.close(decision, "failed", actor, "the version was deleted")
            raise unknown_version(self._registry, name, number)
        return self._ledger.close(decision, "done", actor, "")

    def resolve_interrupted(self) -> None:
        """Resolves every decision that an earlier process left pending.

        Raises:
            UnavailableError: MLflow or the database does not answer; the next decision on each alias tries again.
        """
        pending = [decision for decision in self._ledger.pending() if decision.style is None]
        for name, alias in sorted({(decision.model, decision.alias or "") for decision in pending}):
            with self._locks.hold(name, alias or None):
                if alias:
                    self._resolve_pending(name, alias, self._current(name, alias))
                else:
                    self._resolve_pending_retirements(name)

    def record_digests(self) -> None:
        """Records the digest of every version that an alias points at or can go back to, where no decision holds it.

        Releases before digests did not record them. From here on infer serves these versions with the files that they have now.

        Raises:
            UnavailableError: MLflow or the database does not answer; the next start continues.
        """
        for (name, alias), move in sorted(self._ledger.alias_moves.latest_by_alias().items()):
            if move.to_version is None:
                continue
            for number in sorted(set(build_stack(self._ledger.alias_moves.history(name, alias)))):
                version = self._registry.version(name, number)
                if version is None or version.kind != KIND_ADAPTER:
                    continue
                digest = self._digests.decided(version) or self._record_digest(name, alias, number)
                if digest is not None:
                    self._digests.tag(version, digest)

    def reconcile(self, name: str, alias: str) -> None:
        """Records a decision where an alias was changed outside registry-api.

        Raises:
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        with self._locks.hold(name, alias):
            current = self._current(name, alias)
            self._resolve_pending(name, alias, current)
            self._record_outside_move(name, alias, current)

    def _current(self, name: str, alias: str) -> int | None:
        model = self._registry.model(name)
        return model.aliases.get(alias) if model else None

    def _resolve_pending(self, name: str, alias: str, current: int | None) -> None:
        for decision in self._ledger.pending(name, alias):
            kind: EntryKind = "done" if decision.to_version == current else "failed"
            self._ledger.close(decision, kind, OWN_ACTOR, f"after an interruption the alias points at {current}")
            fields = {"decision": decision.id, "model": name, "alias": alias, "outcome": kind, "current_version": current}
            log.warning("interrupted decision resolved", extra={"fields": fields})

    def _resolve_pending_retirements(self, name: str) -> None:
        for decision in self._ledger.pending(name):
            if decision.style is not None:
                continue  # of `StyleWriter`
            version = self._registry.version(name, decision.to_version or 0)
            retired = version is not None and version.tags.get(TAG_RETIRED) == str(decision.id)
            self._ledger.close(decision, "done" if retired else "failed", OWN_ACTOR, "resolved after an interruption")
            fields = {"decision": decision.id, "model": name, "outcome": "done" if retired else "failed"}
            log.warning("interrupted decision resolved", extra={"fields": fields})

    def _record_outside_move(self, name: str, alias: str, current: int | None) -> None:
        last = self._ledger.alias_moves.last(name, alias)
        known = last.to_version if last else None
        if current == known:
            return
        version = self._registry.version(name, current) if current is not None else None
        digest = self._digests.decided_or_current(version) if version else None
        if version and digest:
            self._digests.tag(version, digest)
        facts = DecisionFacts(
            actor=OUTSIDE_ACTOR,
            action="outside",
            model=name,
            alias=alias,
            from_version=known,
            to_version=current,
            reason="moved with another MLflow client" if last else "existed before the first decision",
            details={"adapter_digest": digest} if digest else {},
        )
        self._ledger.open("outside", facts)
        fields = {"model": name, "alias": alias, "from_version": known, "to_version": current}
        log.warning("alias was changed outside registry-api", extra={"fields": fields})

    def _record_digest(self, name: str, alias: str, number: int) -> str | None:
        with self._locks.hold(name, alias):
            version = self._registry.version(name, number)
            if version is None:
                return None
            if (decided := self._digests.decided(version)) is not None:
                return decided
            identity = self._digests.read(version)
            fields = {"model": name, "version": number, "adapter_digest": identity.digest, "reason": identity.problem}
            if identity.digest is None:
                log.error("digest cannot be recorded", extra={"fields": fields})
                return None
            facts = DecisionFacts(
                actor=OWN_ACTOR,
                action="record",
                model=name,
                alias=None,
                from_version=None,
                to_version=number,
                reason="digest of a version that was promoted before digests were recorded",
                details={"adapter_digest": identity.digest},
            )
            self._ledger.open("recorded", facts)
            log.warning("digest recorded", extra={"fields": fields})
            return identity.digest

    def _tag_digest(self, name: str, number: int, digest: str | None) -> bool:
        """Tags the version for infer before the alias points at it. False where the version was deleted."""
        if digest is None:
            return True
        return self._registry.set_tag(name, number, TAG_PROMOTED_DIGEST, digest)
