"""Retires versions: a tag in MLflow that the rules check, and a decision."""

from __future__ import annotations

from atelier_contracts.names import TAG_RETIRED
from atelier_contracts.promotion import Decision

from atelier_registry.decisions.alias_writer import AliasWriter
from atelier_registry.decisions.caller import Caller, find_repeated, fingerprint
from atelier_registry.errors import AliasedError
from atelier_registry.models.catalogue import find_version, unknown_version
from atelier_registry.models.model_registry import ModelRegistry
from atelier_registry.storage.entries import DecisionFacts
from atelier_registry.storage.ledger import Ledger


class Retirement:
    """Retires versions that no alias points at.

    Args:
        registry: the versions.
        ledger: the decisions.
        alias_writer: holds the model's lock meanwhile.
    """

    def __init__(self, registry: ModelRegistry, ledger: Ledger, alias_writer: AliasWriter) -> None:
        self._registry, self._ledger, self._alias_writer = registry, ledger, alias_writer

    def retire(self, caller: Caller, name: str, number: int, reason: str) -> Decision:
        """Retires a version. Where it already is, returns the decision that retired it.

        Raises:
            NotFoundError: the model or the version does not exist.
            AliasedError: an alias points at it.
            KeyReusedError: the key was used for another request.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        request = fingerprint("retire", name, number, reason)
        with self._alias_writer.locked_model(name) as model:
            version = find_version(self._registry, name, number)
            if (repeated := find_repeated(self._ledger, caller, request)) is not None:
                return repeated
            if aliases := model.aliases_of(number):
                raise AliasedError(name, number, aliases)
            if (earlier := self._retired_by(version.tags.get(TAG_RETIRED, ""))) is not None:
                return earlier
            facts = DecisionFacts(
                actor=caller.id,
                action="retire",
                model=name,
                alias=None,
                from_version=None,
                to_version=number,
                reason=reason,
                key=caller.key,
                details={"request": request},
            )
            decision = self._ledger.open("begun", facts)
            if not self._registry.set_tag(name, number, TAG_RETIRED, str(decision.id)):
                self._ledger.close(decision, "failed", caller.id, "the version was deleted")
                raise unknown_version(self._registry, name, number)
            return self._ledger.close(decision, "done", caller.id, "")

    def _retired_by(self, tag: str) -> Decision | None:
        decision = self._ledger.find(int(tag)) if tag.isdecimal() else None
        return decision if decision is not None and decision.action == "retire" else None
