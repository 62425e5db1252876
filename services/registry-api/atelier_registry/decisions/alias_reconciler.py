"""Looks at MLflow's aliases now and then: what was moved in its dashboard becomes a decision, and an event."""

from __future__ import annotations

from atelier_registry.decisions.alias_writer import AliasWriter
from atelier_registry.models.model_registry import ModelRegistry
from atelier_registry.periodic_task import PeriodicTask
from atelier_registry.storage.ledger import Ledger

_PAGE = 100


class AliasReconciler:
    """A thread that compares every alias with its last decision; one question to MLflow for each hundred models.

    Args:
        registry: where the aliases are.
        ledger: where decisions are kept.
        mover: keeps what was found.
        every_s: how often.
    """

    def __init__(self, registry: ModelRegistry, ledger: Ledger, alias_writer: AliasWriter, every_s: float) -> None:
        self._registry, self._ledger, self._mover = registry, ledger, alias_writer
        self._prepared = False
        # a decision looks at its own alias by itself, so the first look can wait like every other
        self._task = PeriodicTask("looking for aliases that were moved outside registry-api", self._work, every_s)

    def start(self) -> None:
        """Starts the thread."""
        self._task.start()

    def stop(self) -> None:
        """Ends it after the look that is under way."""
        self._task.stop()

    def prepare(self) -> None:
        """Ends what an earlier process left, and records the digests that its release did not; once, whenever MLflow answers.

        Raises:
            RegistryApiError: MLflow or the database does not answer; the next look tries again.
        """
        if not self._prepared:
            self._mover.reconcile()
            self._mover.record_digests()
            self._prepared = True

    def look(self) -> None:
        """One look at everything.

        Raises:
            RegistryApiError: MLflow or the database does not answer.
        """
        found: dict[tuple[str, str], int] = {}
        token: str | None = None
        while True:
            page = self._registry.models(_PAGE, token)
            found |= {(model.name, alias): number for model in page.items for alias, number in model.aliases.items()}
            if not (token := page.next_token):
                break
        known = {place: move.to_version for place, move in self._ledger.aliases().items() if move.to_version is not None}
        for name, alias in sorted(place for place in found.keys() | known.keys() if found.get(place) != known.get(place)):
            self._mover.look(name, alias)

    def _work(self) -> None:
        self.prepare()
        self.look()
