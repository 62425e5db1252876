"""The only writer of TAG_STYLE. It keeps the decisions on styles and the tags in MLflow consistent, also across interruptions.

1. `begun` is recorded, with the new edits. 2. The model is tagged with them. 3. `done` and the event are recorded in one
transaction. The decision is the truth: the next decision on the style, and every start, carries out what an interruption left
pending. A tag with other edits was changed outside registry-api, which is recorded as a decision of its own; one that cannot be
read is replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from atelier_contracts.names import CHAIN_MODEL, TAG_STYLE
from atelier_contracts.promotion import Decision, StyleChange
from atelier_contracts.styles import RecordedEdits, StyleEdits
from pydantic import ValidationError

from atelier_registry.decisions.alias_writer import OUTSIDE_ACTOR, OWN_ACTOR
from atelier_registry.models.catalogue import find_model, unknown_model
from atelier_registry.models.model_registry import Model, ModelRegistry
from atelier_registry.storage.entries import STYLE, DecisionFacts, style_details
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import AliasLocks

log = logging.getLogger(__name__)

LOCK = "style:"
"""Held like an alias of this name, which no alias can have."""


class StyleWriter:
    """Edits styles.

    Args:
        registry: the tags.
        ledger: the decisions.
        locks: allow one decision at a time.
    """

    def __init__(self, registry: ModelRegistry, ledger: Ledger, locks: AliasLocks) -> None:
        self._registry, self._ledger, self._locks = registry, ledger, locks

    @contextmanager
    def locked(self, name: str) -> Iterator[Model]:
        """Excludes other decisions on the style. Yields the model as it is then, with every edit recorded.

        Raises:
            UnknownModelError: there is no such model.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        with self._locks.hold(name, LOCK):
            model = find_model(self._registry, name)
            self._synchronize(name, model)
            yield model

    def write(self, facts: DecisionFacts, change: StyleChange) -> Decision:
        """Records and carries out a decision. It stays pending where MLflow does not answer, and is carried out later.

        Raises:
            UnknownModelError: the model was deleted meanwhile.
            UnavailableError: MLflow or the database does not answer.
        """
        decision = self._ledger.open("begun", facts)
        if not self._tag(facts.model, RecordedEdits(decision=decision.id, edits=change.after)):
            self._ledger.close(decision, "failed", facts.actor, "the model was deleted")
            raise unknown_model(self._registry, facts.model)
        return self._ledger.close(decision, "done", facts.actor, "")

    def resolve_interrupted(self) -> None:
        """Carries out every decision that an earlier process left pending.

        Raises:
            UnavailableError: MLflow or the database does not answer; the next decision on each style tries again.
        """
        for name in sorted({decision.model for decision in self._ledger.pending() if decision.style}):
            with self._locks.hold(name, LOCK):
                self._resolve_pending(name, self._registry.model(name))

    def differs(self, name: str, tag: str | None, recorded: RecordedEdits | None) -> bool:
        """Whether a model's tag is not what the decisions say.

        Args:
            name: of the model.
            tag: its value; None without one, or without the model.
            recorded: by the last decision; None before the first.
        """
        if recorded is None or not recorded.edits.values():
            return tag is not None and name != CHAIN_MODEL and tag != (recorded or RecordedEdits(decision=0)).tag()
        return tag != recorded.tag()

    def reconcile(self, name: str) -> None:
        """Records a decision where a style was edited outside registry-api, and repairs the tag.

        Raises:
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        with self._locks.hold(name, LOCK):
            self._synchronize(name, self._registry.model(name))

    def _synchronize(self, name: str, model: Model | None) -> None:
        """Carries out what is pending, then records what was edited outside. Called with the lock held."""
        if self._resolve_pending(name, model):
            model = self._registry.model(name)
        recorded, tag = self._ledger.style_changes.last(name), model.tags.get(TAG_STYLE) if model else None
        if not self.differs(name, tag, recorded):
            return
        current = _parse(tag)
        if current is None:
            log.error("style tag cannot be read; replaced", extra={"fields": {"model": name, "decision": recorded.decision}})
            self._tag(name, recorded)
        elif current.values() == recorded.edits.values():
            self._tag(name, recorded)  # it named another decision, or was spelt otherwise
        else:
            self._record(name, StyleChange(before=recorded.edits, after=current), exists=model is not None)

    def _resolve_pending(self, name: str, model: Model | None) -> bool:
        """Whether anything was pending."""
        pending = [decision for decision in self._ledger.pending(name) if decision.style]
        for decision in pending:
            assert decision.style is not None
            tagged = model is not None and self._tag(name, RecordedEdits(decision=decision.id, edits=decision.style.after))
            closed = self._ledger.close(decision, "done" if tagged else "failed", OWN_ACTOR, "resolved after an interruption")
            fields = {"decision": decision.id, "model": name, "outcome": closed.outcome}
            log.warning("interrupted decision resolved", extra={"fields": fields})
        return bool(pending)

    def _record(self, name: str, change: StyleChange, *, exists: bool) -> None:
        facts = DecisionFacts(
            actor=OUTSIDE_ACTOR,
            action="outside",
            model=name,
            alias=None,
            from_version=None,
            to_version=None,
            reason="style edited with another MLflow client" if exists else "the model was deleted",
            details={STYLE: style_details(change)},
        )
        decision = self._ledger.open("outside", facts)
        log.warning("style was edited outside registry-api", extra={"fields": {"model": name, "decision": decision.id}})
        if exists:
            self._tag(name, RecordedEdits(decision=decision.id, edits=change.after))

    def _tag(self, name: str, recorded: RecordedEdits) -> bool:
        """False where the model was deleted."""
        return self._registry.set_model_tag(name, TAG_STYLE, recorded.tag())


def _parse(tag: str | None) -> StyleEdits | None:
    """Edits in a tag; none without one. None where it cannot be read."""
    if tag is None:
        return StyleEdits()
    try:
        return RecordedEdits.model_validate_json(tag).edits
    except ValidationError:
        return None
