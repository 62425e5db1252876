"""Many decide at once: threads, and processes that share nothing but the database and MLflow."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from atelier_contracts.promotion import PromoteRequest
from atelier_registry.errors import AliasBusyError
from atelier_registry.models.mlflow_registry import MlflowRegistry
from atelier_registry.storage import hash_chain
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import open_locks
from sqlalchemy import Engine

from ...servers import MlflowServer
from ..conftest import Api, Response
from ..decisions.test_crash_recovery import KIND, PIA, parts
from ..fake_registry import FakeRegistry
from ..real_registry import RealWorld

FIFTY = 50


def check(ledger: Ledger, registry: FakeRegistry | MlflowRegistry, name: str, numbers: list[int]) -> None:
    """One champion, a chain without gaps, and each decision begins where the one before ended."""
    moves = ledger.alias_moves.history(name, "champion")
    assert sorted(move.to_version for move in moves) == numbers
    assert [move.from_version for move in moves] == [None, *(move.to_version for move in moves[:-1])]
    assert registry.model(name).aliases["champion"] == moves[-1].to_version
    assert [event["to_version"] for event in ledger.outbox.events_after(0, 200)] == [move.to_version for move in moves]
    assert [event["id"] for event in ledger.outbox.events_after(0, 200)] == list(range(1, len(numbers) + 1))
    assert ledger.pending() == []
    assert hash_chain.verify(ledger.chain.rows()).entries == 2 * len(numbers)


def promote_some(tracking_uri: Any, database_url: str, name: str, numbers: Any, gate: Any, done: Any) -> None:
    _, _, promotions, _, _ = parts(tracking_uri, database_url)
    gate.wait()

    def promote(number: Any) -> Any:
        return promotions.promote(PIA, name, number, PromoteRequest(reason=f"version {number}")).id

    with ThreadPoolExecutor(len(numbers)) as pool:
        done.put(list(pool.map(promote, numbers)))


def test_fifty_promotions_by_five_processes(
    real_world: RealWorld, mlflow_server: MlflowServer, database_url: str, engine: Engine, name: str
) -> None:
    real_world.add_model(name)
    numbers = [real_world.add_bare_version(name) for _ in range(FIFTY)]
    ledger, _, _, _, registry = parts(mlflow_server.uri, engine)
    context = multiprocessing.get_context("fork")  # spawned ones would import MLflow five times
    gate, done = context.Barrier(5), context.Queue()
    processes = [
        context.Process(target=promote_some, args=(mlflow_server.uri, database_url, name, numbers[i::5], gate, done))
        for i in range(5)
    ]
    for process in processes:
        process.start()
    ids = sorted(id for _ in processes for id in done.get(timeout=240))
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert len(set(ids)) == FIFTY
    check(ledger, registry, name, numbers)


def test_fifty_promotions_over_http(start: Callable[..., Api], fake: FakeRegistry, name: str, ledger: Ledger) -> None:
    fake.add_model(name)
    numbers = [fake.add_version(name, tags=KIND) for _ in range(FIFTY)]
    api = start(fake)
    gate = threading.Barrier(FIFTY)

    def promote(number: int) -> int:
        gate.wait()
        return api.promote(name, number).status_code

    with ThreadPoolExecutor(FIFTY) as pool:
        assert set(pool.map(promote, numbers)) == {200}
    check(ledger, fake, name, numbers)


def test_the_same_key_at_once_decides_once(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, ledger: Ledger
) -> None:
    api = start(fake)
    api.promote(adapters, 1)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.promote(adapters, 2, headers={"Idempotency-Key": "once"}).json()["id"], range(8)))
    assert len(set(answers)) == 1
    assert len(ledger.alias_moves.history(adapters, "champion")) == 2


def test_locks_exclude_the_same_alias_and_whole_models(engine: Engine) -> None:
    """An alias waits for itself; a model waits for all of its aliases; other aliases and other models do not wait."""
    one, other = open_locks(engine, 0.2), open_locks(engine, 0.2)  # as two processes
    with one.hold("pencil", "champion"):
        with pytest.raises(AliasBusyError), other.hold("pencil", "champion"):
            pass
        with pytest.raises(AliasBusyError), other.hold("pencil", None):
            pass
        with other.hold("pencil", "candidate"), other.hold("ink", None):
            pass
    with one.hold("pencil", None), pytest.raises(AliasBusyError), other.hold("pencil", "candidate"):
        pass
    with other.hold("pencil", None), other.hold("ink", "champion"):
        pass


@pytest.mark.parametrize("first", ["promote", "retire"])
def test_retiring_and_promoting_a_version_exclude_each_other(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, first: str
) -> None:
    """Whichever is first: no alias ends at a retired version. The second one starts while the first one writes to MLflow."""
    api = start(fake)
    second = threading.Thread(target=lambda: answers.append(decide("retire" if first == "promote" else "promote")))
    answers: list[Any] = []

    def decide(action: str) -> Response:
        if action == "promote":
            return api.promote(adapters, 2)
        return api.post(f"/models/{adapters}/versions/2/retire", {"reason": "unsafe"})

    def start_second() -> None:
        fake.before_alias = lambda: None
        second.start()
        second.join(0.5)
        assert second.is_alive(), f"{first} does not hold the lock"

    fake.before_alias = start_second
    assert decide(first).status_code == 200
    second.join(60)
    assert answers[0].status_code == 409
    reason = "cannot be retired" if first == "promote" else "was retired by decision"
    assert reason in answers[0].json()["detail"]
    retired = "atelier.retired" in fake.version(adapters, 2).tags
    assert (dict(fake.model(adapters).aliases), retired) == (({"champion": 2}, False) if first == "promote" else ({}, True))
