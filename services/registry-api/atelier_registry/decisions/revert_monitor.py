"""Records as a decision when infer reverts, that is, stops serving a version by itself. The alias stays where it is."""

from __future__ import annotations

import logging
from typing import Protocol

import requests
from atelier_contracts.served import ServedModel
from atelier_service.periodic_task import PeriodicTask
from pydantic import ValidationError

from atelier_registry.errors import RegistryApiError, StageUnavailableError
from atelier_registry.models.infer_client import CONNECT_TIMEOUT_S
from atelier_registry.storage.entries import DecisionFacts
from atelier_registry.storage.ledger import Ledger

log = logging.getLogger(__name__)

ACTOR = "infer"
_MAX_REASON_CHARACTERS = 1000


class ServedModelReader(Protocol):
    """Reads what an infer serves."""

    def served_model(self) -> ServedModel:
        """Raises `StageUnavailableError` where infer does not answer, or not with a served model."""


class HttpServedModelReader:
    """Calls `GET /models` of infer."""

    def __init__(self, url: str, token: str, timeout_s: float = 10.0) -> None:
        self._url, self._timeout_s = f"{url}/models", timeout_s
        self._headers = {"Authorization": f"Bearer {token}"}

    def served_model(self) -> ServedModel:
        timeouts = (CONNECT_TIMEOUT_S, self._timeout_s)
        try:
            response = requests.get(self._url, headers=self._headers, timeout=timeouts, allow_redirects=False)
            response.raise_for_status()
            return ServedModel.model_validate_json(response.content)
        except (requests.RequestException, ValidationError) as error:
            raise StageUnavailableError(f"infer does not report what it serves ({type(error).__name__})") from error


class RevertMonitor:
    """A thread that asks infer at regular intervals.

    Args:
        reader: asks infer; None where none is configured, and the monitor does nothing.
        ledger: the decisions.
        interval_s: between two requests.
    """

    def __init__(self, reader: ServedModelReader | None, ledger: Ledger, interval_s: float) -> None:
        self._reader, self._ledger = reader, ledger
        self._task = PeriodicTask("revert check", self.check, interval_s, RegistryApiError)

    def start(self) -> None:
        if self._reader is not None:
            self._task.start()

    def stop(self) -> None:
        """Stops after the request that is running; does not wait for it."""
        self._task.stop()

    def check(self) -> None:
        """Asks once. A revert is recorded once, until the alias moves or another version is reverted.

        Raises:
            RegistryApiError: infer or the database does not answer.
        """
        if self._reader is None:
            return
        model = self._reader.served_model()
        for alias, served in sorted(model.aliases.items()):
            reverted = served.reverted_version
            if reverted is None or reverted != served.target_version or self._is_recorded(model.model, alias, reverted):
                continue
            facts = DecisionFacts(
                actor=ACTOR,
                action="revert",
                model=model.model,
                alias=alias,
                from_version=reverted,
                to_version=served.serving_version,
                reason=(served.problem or "infer gave no reason")[:_MAX_REASON_CHARACTERS],
            )
            decision = self._ledger.open("reverted", facts)
            fields = {"model": model.model, "alias": alias, "version": reverted, "serving": served.serving_version}
            log.error("infer reverted a version", extra={"fields": fields | {"decision": decision.id}})

    def _is_recorded(self, model: str, alias: str, version: int) -> bool:
        """Whether the revert was recorded since the alias last moved."""
        revert, move = self._ledger.last_revert(model, alias), self._ledger.alias_moves.last(model, alias)
        return revert is not None and revert.from_version == version and (move is None or move.decision < revert.id)
