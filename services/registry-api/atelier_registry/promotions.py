"""Moves aliases: every decision is written down before the alias moves, and nothing half done stays visible."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from weakref import WeakValueDictionary

from atelier_contracts.promotion import Decision, PromoteRequest, RollbackRequest

from atelier_registry import rules
from atelier_registry.catalogue import find_model, find_version, unknown_version
from atelier_registry.decisions import Action, DecisionLog
from atelier_registry.errors import AliasBusyError, InvalidArgumentError, NoEarlierVersionError
from atelier_registry.registry import Model, ModelRegistry
from atelier_registry.stack import previous, stacked

log = logging.getLogger(__name__)


class Promotions:
    """Decides on aliases, one decision at a time for each alias of a model.

    One process at a time may decide: two would not see each other's locks.

    Args:
        registry: where the aliases are.
        decisions: where the decisions are kept.
        wait_s: how long a decision waits for the others on its alias.
    """

    def __init__(self, registry: ModelRegistry, decisions: DecisionLog, wait_s: float = 10.0) -> None:
        self._registry, self._decisions, self._wait_s = registry, decisions, wait_s
        self._guard = Lock()
        self._locks: WeakValueDictionary[tuple[str, str], Lock] = WeakValueDictionary()

    def promote(self, actor: str, name: str, number: int, request: PromoteRequest) -> Decision:
        """Points an alias at a version. What is already so stays so, and is answered with the decision that made it so.

        Raises:
            NotFoundError: the model or the version does not exist.
            RefusedError: the rules do not allow it.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        rules.check_alias(request.alias)
        with self._alone(name, request.alias):
            model = find_model(self._registry, name)
            self._settle(model.name, request.alias, model)
            return self._move("promote", actor, model, number, request)

    def roll_back(self, actor: str, name: str, request: RollbackRequest) -> Decision:
        """Points an alias at the version before the present one, or at a named one. See `stack.py` for what is before what.

        Raises:
            NoEarlierVersionError: no version was named, and there is none before, or it was deleted.
            NotFoundError: the model, or the version that was named, does not exist.
            RefusedError: the rules do not allow it.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        rules.check_alias(request.alias)
        with self._alone(name, request.alias):
            model = find_model(self._registry, name)
            self._settle(model.name, request.alias, model)
            number = request.version if request.version is not None else self._before(model, request.alias)
            return self._move("rollback", actor, model, number, request)

    def reconcile(self) -> None:
        """Finds out what became of decisions that an earlier process left pending.

        Raises:
            UnavailableError: MLflow or the database does not answer; the next decision on each alias tries again.
        """
        for name, alias in sorted({(decision.model, decision.alias) for decision in self._decisions.pending()}):
            with self._alone(name, alias):
                self._settle(name, alias, self._registry.model(name))

    def _move(self, action: Action, actor: str, model: Model, number: int, request: PromoteRequest) -> Decision:
        present = model.aliases.get(request.alias)
        last = self._decisions.last(model.name, request.alias)
        if present == number and last is not None and last.to_version == number:
            return last
        rules.check_version(find_version(self._registry, model.name, number), request.alias)
        decision = self._decisions.begin(
            actor=actor,
            action=action,
            model=model.name,
            alias=request.alias,
            from_version=present,
            to_version=number,
            reason=request.reason,
        )
        if present != number:
            self._point(decision)
        self._decisions.finish(decision.id)
        return decision

    def _point(self, decision: Decision) -> None:
        """Sets the alias. Where MLflow gives no answer the alias may have moved all the same: the decision stays pending."""
        try:
            moved = self._registry.set_alias(decision.model, decision.alias, decision.to_version)
        except InvalidArgumentError:
            self._decisions.fail(decision.id)
            raise
        if not moved:
            self._decisions.fail(decision.id)
            raise unknown_version(self._registry, decision.model, decision.to_version)

    def _before(self, model: Model, alias: str) -> int:
        present = model.aliases.get(alias)
        if present is None:
            raise NoEarlierVersionError(f"{model.name} has no alias {alias!r}, so nothing to roll back; promote a version")
        number = previous(stacked(self._decisions.moves(model.name, alias)), present)
        if number is None:
            raise NoEarlierVersionError(
                f"no version is known that {alias!r} of {model.name} pointed to before version {present}; name one in `version`"
            )
        if self._registry.version(model.name, number) is None:
            raise NoEarlierVersionError(
                f"{alias!r} of {model.name} pointed to version {number} before version {present}, and version {number} "
                "was deleted since; name another one in `version`"
            )
        return number

    def _settle(self, name: str, alias: str, model: Model | None) -> None:
        """Ends the pending decisions on an alias by looking where it points: nobody else is at work on it now."""
        present = model.aliases.get(alias) if model else None
        for decision in self._decisions.pending_on(name, alias):
            if decision.to_version == present:
                self._decisions.finish(decision.id)
            else:
                self._decisions.fail(decision.id)
            log.warning(
                "decision %d on %s was left pending at version %d; it points at %s",
                decision.id,
                alias,
                decision.to_version,
                present,
            )

    @contextmanager
    def _alone(self, name: str, alias: str) -> Iterator[None]:
        with self._guard:
            lock = self._locks.setdefault((name, alias), Lock())
        if not lock.acquire(timeout=self._wait_s):
            raise AliasBusyError(name, alias, self._wait_s)
        try:
            yield
        finally:
            lock.release()
