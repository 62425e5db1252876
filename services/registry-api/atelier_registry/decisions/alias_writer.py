"""Moves aliases so that what was decided and where MLflow points never stay apart.

1. `begun` is written. 2. The version is tagged with its digest, and the alias is set in MLflow. 3. `done` and the event are
written, in one transaction. Whoever comes next to an alias, and every start, looks at what an interruption left: the alias
itself tells whether step 2 happened. An alias that points somewhere without a decision was changed outside registry-api, and
becomes a decision of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from atelier_contracts.names import KIND_ADAPTER, TAG_PROMOTED_DIGEST, TAG_RETIRED
from atelier_contracts.promotion import Decision

from atelier_registry.decisions.rollback_stack import stacked
from atelier_registry.errors import InvalidArgumentError
from atelier_registry.models.artifact_digests import AdapterDigests
from atelier_registry.models.catalogue import find_model, unknown_version
from atelier_registry.models.model_registry import Model, ModelRegistry
from atelier_registry.storage.ledger import Facts, Ledger
from atelier_registry.storage.locks import AliasLocks

log = logging.getLogger(__name__)

OUTSIDE = "outside"
"""The actor where MLflow does not tell who moved an alias."""

ITSELF = "registry-api"
"""The actor of an entry that ends what an interruption left."""


class AliasWriter:
    """The only hand that sets aliases.

    Args:
        registry: where the aliases are.
        ledger: where the decisions are kept.
        digests: what a version's files are.
        locks: one decision at a time.
        told: called after an event was written; returns at once.
    """

    def __init__(
        self, registry: ModelRegistry, ledger: Ledger, digests: AdapterDigests, locks: AliasLocks, told: Callable[[], None]
    ) -> None:
        self._registry, self._ledger, self._digests, self._locks, self._told = registry, ledger, digests, locks, told

    @contextmanager
    def alone(self, name: str, alias: str) -> Iterator[Model]:
        """Nobody else decides on the alias meanwhile. Gives the model as it is then, with every move known.

        Raises:
            UnknownModelError: there is no such model.
            UnavailableError: MLflow or the database does not answer, or others take too long.
        """
        with self._locks.alone(name, alias):
            model = find_model(self._registry, name)
            self._settle(name, alias, model.aliases.get(alias))
            self._notice(name, alias, model.aliases.get(alias))
            yield model

    @contextmanager
    def locked_all(self, name: str) -> Iterator[Model]:
        """Nobody else decides on anything of the model meanwhile."""
        with self._locks.alone(name, None):
            model = find_model(self._registry, name)
            self._settle_retiring(name)
            yield model

    def move(self, decision: Decision, actor: str) -> Decision:
        """Carries out a decision that was begun.

        Where MLflow gives no answer the alias may have moved all the same: the decision stays pending.

        Raises:
            UnknownVersionError: the version was deleted at the last moment.
            InvalidArgumentError: MLflow refuses the alias as such.
            UnavailableError: MLflow or the database does not answer.
        """
        assert decision.alias is not None
        assert decision.to_version is not None
        try:
            moved = self._published(decision.model, decision.to_version, decision.adapter_digest) and (
                decision.to_version == decision.from_version
                or self._registry.set_alias(decision.model, decision.alias, decision.to_version)
            )
        except InvalidArgumentError as error:
            self._ledger.close(decision, "failed", actor, str(error))
            raise
        if not moved:
            self._ledger.close(decision, "failed", actor, "the version was deleted")
            raise unknown_version(self._registry, decision.model, decision.to_version)
        done = self._ledger.close(decision, "done", actor, "")
        self._told()
        return done

    def reconcile(self) -> None:
        """Ends what an earlier process left pending.

        Raises:
            UnavailableError: MLflow or the database does not answer; the next decision on each alias tries again.
        """
        for name, alias in sorted({(each.model, each.alias or "") for each in self._ledger.pending()}):
            with self._locks.alone(name, alias or None):
                if alias:
                    model = self._registry.model(name)
                    self._settle(name, alias, model.aliases.get(alias) if model else None)
                else:
                    self._settle_retiring(name)

    def record_digests(self) -> None:
        """Writes down the digest of each version that an alias points at, or can go back to, where no decision names one.

        Decisions of earlier releases held no digests: from here on infer serves those versions by the files that they have now.

        Raises:
            UnavailableError: MLflow or the database does not answer; the next start goes on.
        """
        for (name, alias), move in sorted(self._ledger.aliases().items()):
            if move.to_version is None:
                continue
            for number in sorted(set(stacked(self._ledger.moves(name, alias)))):
                version = self._registry.version(name, number)
                if version is None or version.kind != KIND_ADAPTER:
                    continue
                if (decided := self._digests.decided(version)) is None:
                    decided = self._record(name, alias, number)
                if decided is not None:
                    self._digests.publish(version, decided)

    def _record(self, name: str, alias: str, number: int) -> str | None:
        with self._locks.alone(name, alias):
            version = self._registry.version(name, number)
            if version is None or (decided := self._digests.decided(version)) is not None:
                return decided if version else None
            found = self._digests.present(version)
            if found.digest is None:
                log.error("no digest can be recorded for version %d of %s: %s", number, name, found.problem)
                return None
            reason = "the digest of a version that was promoted before digests were kept"
            kept = {"adapter_digest": found.digest}
            self._ledger.open("recorded", Facts(ITSELF, "record", name, None, None, number, reason, details=kept))
            log.warning("recorded digest %s of version %d of %s", found.digest, number, name)
            return found.digest

    def look(self, name: str, alias: str) -> None:
        """Finds out whether an alias was moved outside registry-api, and keeps it as a decision.

        Raises:
            UnavailableError: MLflow or the database does not answer, or others take too long.
        """
        with self._locks.alone(name, alias):
            model = self._registry.model(name)
            present = model.aliases.get(alias) if model else None
            self._settle(name, alias, present)
            self._notice(name, alias, present)

    def _settle(self, name: str, alias: str, present: int | None) -> None:
        for decision in self._ledger.pending(name, alias):
            moved = decision.to_version == present
            told = f"after an interruption the alias points at {present}"
            self._ledger.close(decision, "done" if moved else "failed", ITSELF, told)
            log.warning("decision %d on %s was left pending at version %d; %s", decision.id, alias, decision.to_version, told)
            self._told()

    def _settle_retiring(self, name: str) -> None:
        for decision in self._ledger.pending(name):
            version = self._registry.version(name, decision.to_version or 0)
            retired = version is not None and version.tags.get(TAG_RETIRED) == str(decision.id)
            self._ledger.close(decision, "done" if retired else "failed", ITSELF, "found after an interruption")
            log.warning("decision %d to retire was left pending; retired: %s", decision.id, retired)

    def _notice(self, name: str, alias: str, present: int | None) -> None:
        last = self._ledger.last_move(name, alias)
        known = last.to_version if last else None
        if present == known:
            return
        reason = "moved with another MLflow client" if last else "was there before the first decision"
        version = self._registry.version(name, present) if present is not None else None
        digest = self._digests.fix(version) if version else None
        if version and digest:
            self._digests.publish(version, digest)
        kept = {"adapter_digest": digest} if digest else {}
        self._ledger.open("outside", Facts(OUTSIDE, "outside", name, alias, known, present, reason, details=kept))
        log.warning("%s of %s went from %s to %s outside registry-api", alias, name, known, present)
        self._told()

    def _published(self, name: str, number: int, digest: str | None) -> bool:
        """Tags the version for infer, before the alias points at it. False where it was deleted."""
        if digest is None:
            return True
        return self._registry.set_tag(name, number, TAG_PROMOTED_DIGEST, digest)
