"""MLflow or the database fails, or this process dies, at every point of a decision; and many decide at once."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from atelier_contracts.promotion import PromoteRequest
from atelier_registry.errors import AliasBusyError, DatabaseUnavailableError, TrackingUnavailableError
from atelier_registry.promotions import Promotions


def champion(registry, name):
    return registry.model(name).aliases.get("champion")


def unavailable(answer):
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()["detail"]


class Killed(BaseException):
    """The process ends here."""


def fail(error):
    def failing():
        raise error

    return failing


@pytest.mark.parametrize(
    "path", ["/models", "/models/{name}", "/models/{name}/versions", "/models/{name}/versions/1", "/models/{name}/history"]
)
def test_reading_without_mlflow(api, fake, adapters, path, caplog):
    fake.down = True
    detail = unavailable(api.get(path.format(name=adapters)))
    assert "the fake is down" not in detail
    assert "the fake is down" in caplog.text


def test_deciding_without_mlflow(api, fake, adapters, decisions):
    api.promote(adapters, 1)
    fake.down = True
    unavailable(api.promote(adapters, 2))
    unavailable(api.roll_back(adapters))
    fake.down = False
    assert decisions.pending() == []
    assert champion(fake, adapters) == 1
    assert len(api.history(adapters)) == 1


def test_mlflow_fails_before_the_alias_moves(api, fake, adapters):
    api.promote(adapters, 1)
    fake.before_alias = fail(TrackingUnavailableError())
    unavailable(api.promote(adapters, 2))
    assert [decision["to_version"] for decision in api.history(adapters)] == [1]
    fake.before_alias = lambda: None
    assert api.promote(adapters, 3).json()["from_version"] == 1
    assert [decision["to_version"] for decision in api.history(adapters)] == [3, 1]


def test_mlflow_fails_after_the_alias_moved(api, fake, adapters):
    """The answer was lost on its way: the same request again finds what it asked for, and the decision that did it."""
    fake.after_alias = fail(TrackingUnavailableError())
    unavailable(api.promote(adapters, 2))
    assert api.history(adapters) == []
    fake.after_alias = lambda: None
    answer = api.as_("ada").promote(adapters, 2)
    assert answer.json()["actor"] == "pia"
    assert [decision["id"] for decision in api.history(adapters)] == [answer.json()["id"]]


@pytest.mark.parametrize("moved", [False, True])
def test_the_process_dies_between_decision_and_answer(start, world, name, decisions, moved, monkeypatch, caplog):
    """A new process finds out at its start what became of the decision."""
    world.add_model(name)
    for _ in range(2):
        world.add_version(name, tags={"atelier.kind": "adapter"})
    Promotions(world.registry, decisions).promote("pia", name, 1, PromoteRequest(reason="the first"))
    set_alias = type(world.registry).set_alias

    def dying(*args):
        if moved:
            set_alias(*args)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(type(world.registry), "set_alias", dying)
        Promotions(world.registry, decisions).promote("pia", name, 2, PromoteRequest(reason="the second"))
    [left] = decisions.pending()
    api = start(world.registry)
    assert f"decision {left.id} on champion was left pending" in caplog.text
    assert decisions.pending() == []
    assert [decision["to_version"] for decision in api.history(name)] == ([2, 1] if moved else [1])
    assert champion(world.registry, name) == (2 if moved else 1)
    again = api.promote(name, 2)
    assert (again.json()["id"] == left.id) == moved
    assert [decision["to_version"] for decision in api.history(name)] == [2, 1]


def test_left_pending_while_mlflow_is_down_at_the_start(start, fake, adapters, decisions, caplog):
    decisions.begin(
        actor="pia", action="promote", model=adapters, alias="champion", from_version=None, to_version=2, reason="lost"
    )
    fake.down = True
    api = start(fake)
    assert "pending decisions wait" in caplog.text
    fake.down = False
    assert api.history(adapters) == []
    assert api.promote(adapters, 3).json()["from_version"] is None
    assert [decision["to_version"] for decision in api.history(adapters)] == [3]


def test_left_pending_on_a_model_that_was_deleted(start, fake, adapters, decisions):
    decisions.begin(
        actor="pia", action="promote", model="gone", alias="champion", from_version=None, to_version=2, reason="lost"
    )
    start(fake)
    assert decisions.pending() == []


def test_the_database_fails_before_the_alias_moves(api, fake, adapters, decisions, monkeypatch):
    monkeypatch.setattr(decisions, "begin", lambda **facts: fail(DatabaseUnavailableError())())
    unavailable(api.promote(adapters, 2))
    assert champion(fake, adapters) is None


def test_the_database_fails_after_the_alias_moved(api, fake, adapters, decisions, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(decisions, "finish", lambda id: fail(DatabaseUnavailableError())())
        unavailable(api.promote(adapters, 2))
    answer = api.promote(adapters, 2)
    assert answer.status_code == 200
    assert [decision["id"] for decision in api.history(adapters)] == [answer.json()["id"]]


def test_a_database_without_its_table(api, adapters, engine):
    from atelier_registry.tables import metadata

    metadata.drop_all(engine)
    detail = unavailable(api.get(f"/models/{adapters}/history"))
    assert "decisions" in detail
    assert "SELECT" not in detail


@pytest.mark.parametrize("kind", ["fake", "mlflow"])
def test_many_decide_at_once(request, decisions, name, kind, caplog):
    """Twenty promote twenty versions: the alias ends where the last one says, each begins where the one before ended."""
    caplog.set_level(logging.ERROR)
    world = request.getfixturevalue("real_world") if kind == "mlflow" else request.getfixturevalue("fake")
    registry = world.registry if kind == "mlflow" else world
    world.add_model(name)
    numbers = [world.add_version(name, tags={"atelier.kind": "adapter"}) for _ in range(20)]
    promotions = Promotions(registry, decisions, wait_s=120)
    gate = threading.Barrier(len(numbers))

    def promote(number):
        gate.wait()
        return promotions.promote("pia", name, number, PromoteRequest(reason=f"version {number}"))

    with ThreadPoolExecutor(len(numbers)) as pool:
        answers = list(pool.map(promote, numbers))
    moves = decisions.moves(name, "champion")
    assert sorted(move.id for move in moves) == sorted(answer.id for answer in answers)
    assert champion(registry, name) == moves[-1].to_version
    assert [move.from_version for move in moves] == [None, *(move.to_version for move in moves[:-1])]
    assert sorted(move.to_version for move in moves) == numbers
    assert decisions.pending() == []


def test_many_ask_for_the_same_at_once(api, adapters):
    with ThreadPoolExecutor(8) as pool:
        ids = {answer.json()["id"] for answer in pool.map(lambda _: api.promote(adapters, 2), range(8))}
    assert len(ids) == 1
    assert len(api.history(adapters)) == 1


def test_a_decision_does_not_wait_for_ever(fake, adapters, decisions):
    promotions, free = Promotions(fake, decisions, wait_s=0.2), threading.Event()
    fake.before_alias = lambda: free.wait(10)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(promotions.promote, "pia", adapters, 1, PromoteRequest(reason="slow"))
        while "set_alias" not in fake.calls and not decisions.pending():
            time.sleep(0.01)
        with pytest.raises(AliasBusyError, match=r"within 0\.2 s"):
            promotions.promote("ada", adapters, 2, PromoteRequest(reason="impatient"))
        other = Promotions(fake, decisions).promote
        fake.before_alias = lambda: None
        assert other("ada", adapters, 2, PromoteRequest(reason="another alias", alias="candidate")).to_version == 2
        free.set()
        assert slow.result(10).to_version == 1


def test_a_busy_alias_is_answered_with_503(start, fake, adapters):
    def busy():
        raise AliasBusyError(adapters, "champion", 10)

    fake.before_alias = busy
    assert "under way" in unavailable(start(fake).promote(adapters, 1))
