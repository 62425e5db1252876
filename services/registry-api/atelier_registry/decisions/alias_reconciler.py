"""Compares aliases and styles in MLflow with the decisions: a change made outside becomes a decision and an event."""

from __future__ import annotations

from atelier_contracts.names import TAG_STYLE
from atelier_service.periodic_task import PeriodicTask

from atelier_registry.decisions.alias_writer import AliasWriter
from atelier_registry.decisions.styles.style_writer import StyleWriter
from atelier_registry.errors import RegistryApiError
from atelier_registry.models.model_registry import ModelRegistry
from atelier_registry.storage.ledger import Ledger

_PAGE_SIZE = 100


class AliasReconciler:
    """A thread that makes one request to MLflow for each hundred models.

    Args:
        registry: the aliases.
        ledger: the decisions.
        alias_writer: records changes of aliases.
        style_writer: records changes of styles.
        interval_s: between two comparisons. A decision looks at its own alias itself, so the first can wait as long.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        ledger: Ledger,
        alias_writer: AliasWriter,
        style_writer: StyleWriter,
        interval_s: float,
    ) -> None:
        self._registry, self._ledger = registry, ledger
        self._alias_writer, self._style_writer = alias_writer, style_writer
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
            self._style_writer.resolve_interrupted()
            self._alias_writer.record_digests()
            self._recovered = True

    def reconcile(self) -> None:
        """Compares every alias and every style once.

        Raises:
            RegistryApiError: MLflow or the database does not answer.
        """
        current: dict[tuple[str, str], int] = {}
        styles: dict[str, str] = {}
        token: str | None = None
        while True:
            page = self._registry.models(_PAGE_SIZE, token)
            current |= {(model.name, alias): number for model in page.items for alias, number in model.aliases.items()}
            styles |= {model.name: tag for model in page.items if (tag := model.tags.get(TAG_STYLE)) is not None}
            if not (token := page.next_token):
                break
        moves = self._ledger.alias_moves.latest_by_alias()
        recorded = {key: move.to_version for key, move in moves.items() if move.to_version is not None}
        for name, alias in sorted(key for key in current.keys() | recorded.keys() if current.get(key) != recorded.get(key)):
            self._alias_writer.reconcile(name, alias)
        edits = self._ledger.style_changes.latest_by_model()
        for name in sorted(styles.keys() | edits.keys()):
            if self._style_writer.differs(name, styles.get(name), edits.get(name)):
                self._style_writer.reconcile(name)

    def _run(self) -> None:
        self.recover()
        self.reconcile()
