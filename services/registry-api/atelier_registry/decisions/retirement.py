"""Taking a version out of use: a tag in MLflow that the rules read, and a decision."""

from __future__ import annotations

from collections.abc import Callable

from atelier_contracts.names import TAG_RETIRED
from atelier_contracts.promotion import Decision

from atelier_registry.api.caller import Caller, fingerprint
from atelier_registry.decisions.alias_writer import AliasWriter
from atelier_registry.errors import AliasedError, KeyReusedError
from atelier_registry.models.catalogue import find_version, unknown_version
from atelier_registry.models.model_registry import ModelRegistry
from atelier_registry.storage.ledger import Facts, Ledger


class Retirement:
    """Retires versions that no alias points at.

    Args:
        registry: where the versions are.
        ledger: where the decisions are kept.
        mover: keeps others away from the model meanwhile.
        changed: called after a version was tagged.
    """

    def __init__(self, registry: ModelRegistry, ledger: Ledger, alias_writer: AliasWriter, changed: Callable[[], None]) -> None:
        self._registry, self._ledger, self._mover, self._changed = registry, ledger, alias_writer, changed

    def retire(self, caller: Caller, name: str, number: int, reason: str) -> Decision:
        """Retires a version; one that is retired already stays so, and is answered with the decision that did it.

        Raises:
            NotFoundError: the model or the version does not exist.
            AliasedError: an alias points at it.
            KeyReusedError: the key was used for something else.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        asked = fingerprint("retire", name, number, reason)
        with self._mover.locked_all(name) as model:
            version = find_version(self._registry, name, number)
            if caller.key and (earlier := self._ledger.by_key(caller.id, caller.key)) and earlier.outcome == "done":
                if self._ledger.fingerprint(earlier.id) != asked:
                    raise KeyReusedError(earlier.id)
                return earlier
            if aliases := model.aliases_of(number):
                raise AliasedError(name, number, aliases)
            tagged = version.tags.get(TAG_RETIRED, "")
            if tagged.isdecimal() and (before := self._ledger.find(int(tagged))) and before.action == "retire":
                return before
            facts = Facts(caller.id, "retire", name, None, None, number, reason, key=caller.key, details={"request": asked})
            decision = self._ledger.open("begun", facts)
            if not self._registry.set_tag(name, number, TAG_RETIRED, str(decision.id)):
                self._ledger.close(decision, "failed", caller.id, "the version was deleted")
                raise unknown_version(self._registry, name, number)
            self._changed()
            return self._ledger.close(decision, "done", caller.id, "")
