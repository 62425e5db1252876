"""infer stops drawing with a version on its own: registry-api hears of it, once, from a real infer too."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from atelier_contracts.served import ServedAlias, ServedModel
from atelier_registry.decisions.revert_monitor import HttpServedModelReader, RevertMonitor
from atelier_registry.errors import StageUnavailableError
from atelier_registry.storage import hash_chain
from atelier_registry.storage.ledger import Ledger

from ...servers import app_running, free_port
from ..conftest import Api


class FakeInfer:
    def __init__(self, model: str) -> None:
        self.model = model
        self.aliases: dict[Any, Any] = {}

    def served_model(self) -> ServedModel:
        return ServedModel(model=self.model, aliases=self.aliases)


def test_a_revert_is_recorded_once_until_the_alias_moves(api: Api, adapters: str, ledger: Ledger) -> None:
    for number in (1, 2):
        api.promote(adapters, number)
    infer = FakeInfer(adapters)
    monitor = RevertMonitor(infer, ledger, 3600)
    monitor.check()
    infer.aliases["champion"] = ServedAlias(
        target_version=2, serving_version=1, reverted_version=2, problem="version 2 drew 2 blank images"
    )
    for _ in range(3):
        monitor.check()
    [kept] = [decision for decision in api.history(adapters) if decision["action"] == "revert"]
    assert (kept["actor"], kept["from_version"], kept["to_version"], kept["outcome"]) == ("infer", 2, 1, "done")
    assert "2 blank images" in kept["reason"]
    assert api.get(f"/models/{adapters}/aliases/champion").json()["version"] == 2  # the alias stays: people decide
    assert api.roll_back(adapters).json()["to_version"] == 1  # and a roll back goes where it went before
    api.as_("ada").promote(adapters, 2)
    monitor.check()
    assert len([decision for decision in api.history(adapters) if decision["action"] == "revert"]) == 2
    assert hash_chain.verify(ledger.chain.rows()).head == ledger.chain.head()[1]


def test_an_infer_that_does_not_answer_is_reported(ledger: Ledger) -> None:
    for url in (f"http://127.0.0.1:{free_port()}",):
        with pytest.raises(StageUnavailableError, match="does not report what it serves"):
            RevertMonitor(HttpServedModelReader(url, "secret"), ledger, 3600).check()
    RevertMonitor(None, ledger, 3600).check()


def test_an_invalid_served_model_is_refused(ledger: Ledger) -> None:
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/models")
    def models() -> dict[str, Any]:
        return {"model": "../x", "aliases": {"champion": {"target": -1}}}

    with app_running(app) as url:
        assert httpx.get(f"{url}/models").status_code == 200
        with pytest.raises(StageUnavailableError):
            RevertMonitor(HttpServedModelReader(url, "secret"), ledger, 3600).check()
    assert list(ledger.chain.rows()) == []
