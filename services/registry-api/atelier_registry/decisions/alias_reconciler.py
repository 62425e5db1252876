"""Compares MLflow's aliases with the decisions: a change made outside registry-api becomes a decision and an event."""

from __future__ import annotations

from atelier_service.periodic_task import PeriodicTask

from atelier_registry.decisions.alias_writer import AliasWriter
from atelier_registry.errors import RegistryApiError
from atelier_registry.models.model_registry import ModelRegistry
from atelier_registry.storage.ledger import Ledger

_PAGE_SIZE = 100


class AliasReconciler:
    """A thread that makes one request to MLflow for each hundred models.

    Args:
        registry: the aliases.
        ledger: the decisions.
        alias_writer: records changes.
        interval_s: between two comparisons. A decision looks at its own alias itself, so the first can wait as long.
    """

    def __init__(self, registry: ModelRegistry, ledger: Ledger, alias_writer: AliasWriter, interval_s: float) -> None:
        self._registry, self._ledger, self._alias_writer = registry, ledger, alias_writer
        self._recovered = False
        self._task = PeriodicTask("alias reconciliation", self._run, interval_s, RegistryApiError)

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        """Stops after the comparison that is running; does not wait for it."""
        self._task.stop()

    def recover(self) -> None:
        """Resolves what an earlier process left pending, and records missing digests; once per process.

        Raises:
            RegistryApiError: MLflow or the database does not answer; the next comparison tries again.
        """
        if not self._recovered:
            self._alias_writer.resolve_interrupted()
            self._alias_writer.record_digests()
            self._recovered = True

    def reconcile(self) -> None:
        """Compares every alias once.

        Raises:
            RegistryApiError: MLflow or the database does not answer.
        """
        current: dict[tuple[str, str], int] = {}
        token: str | None = None
        while True:
            page = self._registry.models(_PAGE_SIZE, token)
            current |= {(model.name, alias): number for model in page.items for alias, number in model.aliases.items()}
            if not (token := page.next_token):
                break
        moves = self._ledger.alias_moves.latest_by_alias()
        recorded = {key: move.to_version for key, move in moves.items() if move.to_version is not None}
        for name, alias in sorted(key for key in current.keys() | recorded.keys() if current.get(key) != recorded.get(key)):
            self._alias_writer.reconcile(name, alias)

    def _run(self) -> None:
        self.recover()
        self.reconcile()
