"""Moves aliases so that what was decided and where MLflow points never stay apart.

1. `begun` is written. 2. The alias is set in MLflow. 3. `done` and the event are written, in one transaction. Whoever comes
next to an alias, and every start, looks at what an interruption left: the alias itself tells whether step 2 happened. An alias
that points somewhere without a decision was moved by other hands, and becomes a decision of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from atelier_contracts.names import TAG_RETIRED
from atelier_contracts.promotion import Decision

from atelier_registry.catalogue import find_model, unknown_version
from atelier_registry.errors import InvalidArgumentError
from atelier_registry.ledger import Facts, Ledger
from atelier_registry.locks import AliasLocks
from atelier_registry.registry import Model, ModelRegistry

log = logging.getLogger(__name__)

OUTSIDE = "outside"
"""The actor where MLflow does not tell who moved an alias."""

ITSELF = "registry-api"
"""The actor of an entry that ends what an interruption left."""


class Mover:
    """The only hand that sets aliases.

    Args:
        registry: where the aliases are.
        ledger: where the decisions are kept.
        locks: one decision at a time.
        told: called after an event was written; returns at once.
    """

    def __init__(self, registry: ModelRegistry, ledger: Ledger, locks: AliasLocks, told: Callable[[], None]) -> None:
        self._registry, self._ledger, self._locks, self._told = registry, ledger, locks, told

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
    def all_alone(self, name: str) -> Iterator[Model]:
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
        if decision.to_version != decision.from_version:
            try:
                moved = self._registry.set_alias(decision.model, decision.alias, decision.to_version)
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

    def look(self, name: str, alias: str) -> None:
        """Finds out whether other hands moved an alias, and keeps it as a decision.

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
        self._ledger.open("outside", Facts(OUTSIDE, "outside", name, alias, known, present, reason))
        log.warning("%s of %s went from %s to %s by other hands", alias, name, known, present)
        self._told()
