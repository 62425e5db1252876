"""Looks at infer now and then: a version that it stopped drawing with, on its own, becomes a decision. The alias stays."""

from __future__ import annotations

import logging
from typing import Protocol

import requests
from atelier_contracts.served import ServedModel
from pydantic import ValidationError

from atelier_registry.errors import StageUnavailableError
from atelier_registry.models.infer_client import CONNECT_S
from atelier_registry.periodic_task import PeriodicTask
from atelier_registry.storage.ledger import Facts, Ledger

log = logging.getLogger(__name__)

ACTOR = "infer"
REASON_CHARACTERS = 1000


class ServedReader(Protocol):
    """Tells what an infer draws with."""

    def served(self) -> ServedModel:
        """The served model.

        Raises:
            StageUnavailableError: infer does not answer, or with something else.
        """


class HttpServedReader:
    """Asks `GET /models` of one infer."""

    def __init__(self, url: str, token: str, timeout_s: float = 10.0) -> None:
        self._url, self._timeout_s = f"{url}/models", timeout_s
        self._login = {"Authorization": f"Bearer {token}"}

    def served(self) -> ServedModel:
        """See `ServedReader`."""
        try:
            answer = requests.get(self._url, headers=self._login, timeout=(CONNECT_S, self._timeout_s), allow_redirects=False)
            answer.raise_for_status()
            return ServedModel.model_validate_json(answer.content)
        except (requests.RequestException, ValidationError) as error:
            raise StageUnavailableError(f"infer does not say what it serves ({type(error).__name__})") from error


class RevertMonitor:
    """A thread that asks infer every so often.

    Args:
        reader: asks infer; None where none is set up, and nothing is done.
        ledger: where the decisions are kept.
        every_s: between two looks.
    """

    def __init__(self, reader: ServedReader | None, ledger: Ledger, every_s: float) -> None:
        self._reader, self._ledger = reader, ledger
        self._task = PeriodicTask("asking infer what it serves", self.look, every_s)

    def start(self) -> None:
        """Starts the thread, where there is an infer to ask."""
        if self._reader is not None:
            self._task.start()

    def stop(self) -> None:
        """Ends it after the look that is under way."""
        self._task.stop()

    def look(self) -> None:
        """One look. A revert is kept once, until the alias moves or another version is reverted.

        Raises:
            RegistryApiError: infer or the database does not answer.
        """
        if self._reader is None:
            return
        found = self._reader.served()
        for alias, served in sorted(found.aliases.items()):
            if served.reverted_version is None or served.reverted_version != served.target_version:
                continue
            last, move = self._ledger.last_revert(found.model, alias), self._ledger.last_move(found.model, alias)
            known = last is not None and last.from_version == served.reverted_version
            if known and last is not None and (move is None or move.decision < last.id):
                continue
            reason = (served.problem or "infer gave no reason")[:REASON_CHARACTERS]
            facts = Facts(ACTOR, "revert", found.model, alias, served.reverted_version, served.serving_version, reason)
            decision = self._ledger.open("reverted", facts)
            fields = {"model": found.model, "alias": alias, "version": served.reverted_version, "decision": decision.id}
            log.error("infer stopped drawing with a version", extra={"fields": fields | {"serving": served.serving_version}})
