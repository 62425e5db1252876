"""The process is killed at every step of a decision, in turn; the next start leaves nothing half done."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from atelier_contracts.names import TAG_RETIRED
from atelier_contracts.promotion import PromoteRequest, RollbackRequest
from atelier_contracts.tokens import Role
from atelier_registry.config.policy import Policy
from atelier_registry.decisions.alias_writer import AliasWriter
from atelier_registry.decisions.caller import Caller
from atelier_registry.decisions.policy_evaluation import PolicyEvaluator
from atelier_registry.decisions.promotions import Promotions
from atelier_registry.decisions.retirement import Retirement
from atelier_registry.models.artifact_digests import AdapterDigests
from atelier_registry.models.mlflow_registry import MlflowRegistry
from atelier_registry.storage import hash_chain
from atelier_registry.storage.database import open_database
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import open_locks
from sqlalchemy import Engine, event

from ...servers import MlflowServer
from ..fake_infer_client import FakeInferClient
from ..real_registry import RealWorld

KIND = {"atelier.kind": "adapter"}
PIA = Caller("pia", Role.promoter)


class Countdown:
    """Kills this process at the given step; steps are counted before and after every write."""

    def __init__(self, left: Any) -> None:
        self.left = left

    def step(self, *_: object) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def parts(
    tracking_uri: str, database: str | Engine, countdown: Countdown | None = None
) -> tuple[Ledger, AliasWriter, Promotions, Retirement, MlflowRegistry]:
    """What one process of the service has. With a countdown it may die around each commit and each write to MLflow.

    A process that lives on names an engine whose connections are closed at its end: PostgreSQL takes a hundred.
    """
    registry, engine = MlflowRegistry(tracking_uri), open_database(database) if isinstance(database, str) else database
    if countdown:
        event.listen(engine, "commit", countdown.step)  # called before the database commits …
        for name in ("set_alias", "set_tag"):
            setattr(registry, name, around(getattr(registry, name), countdown))
    ledger = Ledger(engine)
    if countdown:
        for name in ("open", "close"):
            setattr(ledger, name, around(getattr(ledger, name), countdown))  # … and after it
    alias_writer = AliasWriter(registry, ledger, AdapterDigests(registry, ledger), open_locks(engine, 30))
    evaluator = PolicyEvaluator(registry, AdapterDigests(registry, ledger), Policy(), FakeInferClient())
    return (
        ledger,
        alias_writer,
        Promotions(registry, ledger, alias_writer, evaluator, evaluator),
        Retirement(registry, ledger, alias_writer),
        registry,
    )


def around(call: Any, countdown: Any) -> Any:
    def counted(*args: object, **kwargs: Any) -> Any:
        countdown.step()
        result = call(*args, **kwargs)
        countdown.step()
        return result

    return counted


def dies(act: Callable[..., None]) -> bool:
    """Runs it in a process of its own; whether that was killed."""
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        except BaseException:  # noqa: BLE001  a child of fork must not return into the tests
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


DECISIONS = {
    "promote": lambda promotions, retirement, caller, name: promotions.promote(
        caller, name, 2, PromoteRequest(reason="second")
    ),
    "rollback": lambda promotions, retirement, caller, name: promotions.roll_back(caller, name, RollbackRequest(reason="back")),
    "retire": lambda promotions, retirement, caller, name: retirement.retire(caller, name, 3, "never again"),
}


@pytest.mark.parametrize("action", DECISIONS)
def test_a_process_killed_at_any_step_leaves_nothing_half_done(
    action: str, real_world: RealWorld, mlflow_server: MlflowServer, database_url: str, engine: Engine, name: str
) -> None:
    killed, outcomes = 0, set()
    for left in itertools.count():
        model = real_world.add_model(f"{name}-{left}")
        for _ in range(3):
            real_world.add_bare_version(model)
        caller = Caller(PIA.id, PIA.role, key=f"{left:064}")
        ledger, alias_writer, promotions, _, registry = parts(mlflow_server.uri, engine)
        before = 1
        promotions.promote(PIA, model, 1, PromoteRequest(reason="first"))
        if action == "rollback":
            before = 2
            promotions.promote(PIA, model, 2, PromoteRequest(reason="second"))

        def act(model: Any = model, left: Any = left, caller: Any = caller) -> None:
            _, _, promotions, retirement, _ = parts(mlflow_server.uri, database_url, Countdown(left))
            DECISIONS[action](promotions, retirement, caller, model)

        if not dies(act):
            break
        killed += 1
        alias_writer.resolve_interrupted()  # the next start
        assert ledger.pending() == []
        now = registry.model(model).aliases["champion"]
        assert now in (before, 3 - before)
        assert ledger.alias_moves.last(model, "champion").to_version == now
        assert [row["to_version"] for row in ledger.outbox.events_after(0, 1000) if row["model"] == model][-1] == now
        assert [decision for decision in ledger.page(model, limit=50) if decision.action == "outside"] == []
        latest = ledger.page(model, limit=1)[0]
        if action == "retire":
            retired = registry.version(model, 3).tags.get(TAG_RETIRED)
            assert (retired == str(latest.id)) == (latest.action == "retire" and latest.outcome == "done")
        outcomes.add((latest.action, latest.outcome))
        hash_chain.verify(ledger.chain.rows())
        # the same request again, with its key, does it once and no more
        _, _, promotions, retirement, _ = parts(mlflow_server.uri, engine)
        done = DECISIONS[action](promotions, retirement, caller, model)
        assert done.outcome == "done"
        assert done.action == action
        assert registry.model(model).aliases["champion"] == (1 if action != "promote" else 2)
        carried_out = [each for each in ledger.page(model, outcome="done", limit=50) if each.action == action]
        assert [each for each in carried_out if each.reason != "first"] == [done]
    assert killed >= 6  # around: begun, MLflow, done
    assert (action, "done") in outcomes
    assert (action, "failed") in outcomes
