"""MLflow or the database fails, or this process dies, at every point of a decision; and many decide at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from atelier_contracts.promotion import Decision, PromoteRequest
from atelier_contracts.tokens import Role
from atelier_registry.config.policy import Policy
from atelier_registry.decisions.alias_writer import AliasWriter
from atelier_registry.decisions.caller import Caller
from atelier_registry.decisions.policy_evaluation import PolicyEvaluator
from atelier_registry.decisions.promotions import Promotions
from atelier_registry.errors import AliasBusyError, DatabaseUnavailableError, TrackingUnavailableError
from atelier_registry.models.artifact_digests import AdapterDigests
from atelier_registry.models.mlflow_registry import MlflowRegistry
from atelier_registry.storage.entries import DecisionFacts
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import open_locks
from sqlalchemy import Engine

from ..conftest import Api, Response
from ..fake_infer_client import FakeInferClient
from ..fake_registry import FakeRegistry
from ..real_registry import RealWorld

PIA, ADA = (Caller(id, Role.promoter) for id in ("pia", "ada"))


def promotions_of(registry: FakeRegistry | MlflowRegistry, engine: Engine, wait_s: float = 60.0) -> Promotions:
    """What another process of this service would have."""
    ledger = Ledger(engine)
    alias_writer = AliasWriter(registry, ledger, AdapterDigests(registry, ledger), open_locks(engine, wait_s))
    evaluator = PolicyEvaluator(registry, AdapterDigests(registry, ledger), Policy(), FakeInferClient())
    return Promotions(registry, ledger, alias_writer, evaluator, evaluator)


def left_pending(ledger: Ledger, model: str, to_version: int) -> Decision:
    return ledger.open("begun", DecisionFacts("pia", "promote", model, "champion", None, to_version, "lost"))


def champion(registry: FakeRegistry | MlflowRegistry, name: str) -> int | None:
    return registry.model(name).aliases.get("champion")


def unavailable(answer: Response) -> str:
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()["detail"]


class Killed(BaseException):
    """The process ends here."""


def fail(error: DatabaseUnavailableError | TrackingUnavailableError) -> Callable[..., None]:
    def failing() -> None:
        raise error

    return failing


@pytest.mark.parametrize(
    "path", ["/models", "/models/{name}", "/models/{name}/versions", "/models/{name}/versions/1", "/models/{name}/history"]
)
def test_reading_without_mlflow_is_unavailable(
    api: Api, fake: FakeRegistry, adapters: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake.down = True
    detail = unavailable(api.get(path.format(name=adapters)))
    assert "the fake is down" not in detail
    assert "the fake is down" in caplog.text


def test_deciding_without_mlflow_is_unavailable(api: Api, fake: FakeRegistry, adapters: str, ledger: Ledger) -> None:
    api.promote(adapters, 1)
    fake.down = True
    unavailable(api.promote(adapters, 2))
    unavailable(api.roll_back(adapters))
    fake.down = False
    assert ledger.pending() == []
    assert champion(fake, adapters) == 1
    assert len(api.history(adapters)) == 1


def test_mlflow_fails_before_the_alias_moves(api: Api, fake: FakeRegistry, adapters: str) -> None:
    api.promote(adapters, 1)
    fake.before_alias = fail(TrackingUnavailableError())
    unavailable(api.promote(adapters, 2))
    assert api.moves(adapters) == [1]
    fake.before_alias = lambda: None
    assert api.promote(adapters, 3).json()["from_version"] == 1
    assert api.moves(adapters) == [3, 1]


def test_mlflow_fails_after_the_alias_moved(api: Api, fake: FakeRegistry, adapters: str) -> None:
    """The answer was lost on its way: the same request again finds what it asked for, and the decision that did it."""
    fake.after_alias = fail(TrackingUnavailableError())
    unavailable(api.promote(adapters, 2))
    assert api.moves(adapters) == []
    fake.after_alias = lambda: None
    answer = api.as_("ada").promote(adapters, 2)
    assert answer.json()["actor"] == "pia"
    assert [decision["id"] for decision in api.history(adapters, outcome="done")] == [answer.json()["id"]]


@pytest.mark.parametrize("moved", [False, True])
def test_the_process_dies_between_decision_and_answer(
    start: Callable[..., Api],
    world: FakeRegistry | RealWorld,
    name: str,
    ledger: Ledger,
    engine: Engine,
    moved: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A new process finds out at its start what became of the decision."""
    world.add_model(name)
    for _ in range(2):
        world.add_version(name, tags={"atelier.kind": "adapter"})
    promotions_of(world.registry, engine).promote(PIA, name, 1, PromoteRequest(reason="the first"))
    set_alias = type(world.registry).set_alias

    def dying(*args: Any) -> None:
        if moved:
            set_alias(*args)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(type(world.registry), "set_alias", dying)
        promotions_of(world.registry, engine).promote(PIA, name, 2, PromoteRequest(reason="the second"))
    [left] = ledger.pending()
    api = start(world.registry)
    [resolved] = [vars(record)["fields"] for record in caplog.records if record.message == "interrupted decision resolved"]
    assert (resolved["decision"], resolved["outcome"]) == (left.id, "done" if moved else "failed")
    assert ledger.pending() == []
    assert api.moves(name) == ([2, 1] if moved else [1])
    assert champion(world.registry, name) == (2 if moved else 1)
    again = api.promote(name, 2)
    assert (again.json()["id"] == left.id) == moved
    assert api.moves(name) == [2, 1]


def test_recovery_waits_for_mlflow(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    left_pending(ledger, adapters, 2)
    fake.down = True
    api = start(fake)
    assert "recovery delayed" in caplog.text
    fake.down = False
    assert api.moves(adapters) == []
    assert api.promote(adapters, 3).json()["from_version"] is None
    assert api.moves(adapters) == [3]


def test_a_pending_decision_on_a_deleted_model_fails(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, ledger: Ledger
) -> None:
    left_pending(ledger, "gone", 2)
    start(fake)
    assert ledger.pending() == []


def test_the_database_fails_before_the_alias_moves(
    api: Api, fake: FakeRegistry, adapters: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "open", lambda *facts: fail(DatabaseUnavailableError())())
    unavailable(api.promote(adapters, 2))
    assert champion(fake, adapters) is None


def test_the_database_fails_after_the_alias_moved(
    api: Api, fake: FakeRegistry, adapters: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "close", lambda *facts: fail(DatabaseUnavailableError())())
        unavailable(api.promote(adapters, 2))
    answer = api.promote(adapters, 2)
    assert answer.status_code == 200
    assert [decision["id"] for decision in api.history(adapters, outcome="done")] == [answer.json()["id"]]


def test_a_database_without_its_table_is_unavailable(api: Api, adapters: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE entries")
    detail = unavailable(api.get(f"/models/{adapters}/history"))
    assert "decisions" in detail
    assert "SELECT" not in detail


def test_concurrent_equal_promotions_decide_once(api: Api, adapters: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = {answer.json()["id"] for answer in pool.map(lambda _: api.promote(adapters, 2), range(8))}
    assert len(ids) == 1
    assert len(api.history(adapters)) == 1


def test_a_decision_waits_for_the_lock_until_its_timeout(
    fake: FakeRegistry, adapters: str, engine: Engine, ledger: Ledger
) -> None:
    promotions, free = promotions_of(fake, engine, wait_s=0.3), threading.Event()
    fake.before_alias = lambda: free.wait(20)  # type: ignore[assignment]
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(promotions.promote, PIA, adapters, 1, PromoteRequest(reason="slow"))
        while not ledger.pending():
            time.sleep(0.01)
        for impatient in (promotions, promotions_of(fake, engine, wait_s=0.3)):  # of this process, and of another one
            with pytest.raises(AliasBusyError, match=r"within 0\.3 s"):
                impatient.promote(ADA, adapters, 2, PromoteRequest(reason="impatient"))
        fake.before_alias = lambda: None
        other = promotions_of(fake, engine).promote(ADA, adapters, 2, PromoteRequest(reason="another alias", alias="candidate"))
        assert other.to_version == 2
        free.set()
        assert slow.result(20).to_version == 1


def test_a_busy_alias_is_answered_with_503(start: Callable[..., Api], fake: FakeRegistry, adapters: str) -> None:
    def busy() -> None:
        raise AliasBusyError(adapters, "champion", 10)

    fake.before_alias = busy
    assert "did not complete within" in unavailable(start(fake).promote(adapters, 1))
