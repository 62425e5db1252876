"""The newest entry is kept where the database's user cannot write, so that a chain that is right in itself is not enough."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from atelier_registry.decisions.anchor_stores import MlflowAnchorStore, parse_anchor
from atelier_registry.decisions.chain_anchor import ChainAnchor
from atelier_registry.storage import hash_chain
from atelier_registry.storage.entries import DecisionFacts
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.tables import entries
from sqlalchemy import Engine, insert, text
from sqlalchemy.engine.base import Connection

from ..conftest import Api
from ..fake_registry import FakeRegistry
from ..real_registry import RealWorld


def decide(ledger: Ledger, count: int = 1, reason: str = "moved") -> None:
    for _ in range(count):
        ledger.open("outside", DecisionFacts("outside", "outside", "pencil", "champion", None, 1, reason))


def unlocked(engine: Engine, statement: Callable[..., None], *values: object) -> None:
    """What whoever owns the tables can do."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE entries DISABLE TRIGGER ALL"))
        else:
            connection.execute(text("DROP TRIGGER entries_no_update"))
            connection.execute(text("DROP TRIGGER entries_no_delete"))
        statement(connection)


def rewrite_newest(connection: Connection) -> None:
    row = dict(connection.execute(entries.select().order_by(entries.c.id.desc()).limit(1)).first()._mapping)
    row["reason"] = "nothing to see"
    connection.execute(entries.delete().where(entries.c.id == row["id"]))
    connection.execute(insert(entries).values(row | {"hash": hash_chain.digest(row)}))


def cut_tail(connection: Connection) -> None:
    connection.execute(entries.delete().where(entries.c.id == 5))


def rewrite_all(connection: Connection) -> None:
    rows = [dict(row._mapping) for row in connection.execute(entries.select().order_by(entries.c.id))]
    connection.execute(entries.delete())
    previous = hash_chain.GENESIS
    for row in rows:
        row |= {"actor": "somebody else", "previous_hash": previous}
        row["hash"] = previous = hash_chain.digest(row)
        connection.execute(insert(entries).values(row))


@pytest.mark.parametrize("forgery", [rewrite_newest, cut_tail, rewrite_all])
def test_a_forged_chain_that_is_valid_in_itself_is_found(
    ledger: Ledger, engine: Engine, fake: FakeRegistry, forgery: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    decide(ledger, 5)
    anchor = ChainAnchor([MlflowAnchorStore(fake)], ledger)
    anchor.advance()
    assert hash_chain.verify(ledger.chain.rows(), anchors={"MLflow": parse_anchor(fake.chain_head())}).entries == 5
    unlocked(engine, forgery)
    hash_chain.verify(ledger.chain.rows())  # the road that was open: nothing is wrong with it
    with pytest.raises(hash_chain.BrokenChainError, match=r"anchored"):
        hash_chain.verify(ledger.chain.rows(), anchors={"MLflow": parse_anchor(fake.chain_head())})
    before = fake.chain_head()
    decide(ledger, 2)
    with pytest.raises(hash_chain.BrokenChainError):
        anchor.advance()
    assert fake.chain_head() == before  # the proof is not overwritten


def test_the_anchor_follows_every_decision(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, ledger: Ledger
) -> None:
    api = start(fake)
    for number in (1, 2):
        decision = api.promote(adapters, number).json()
        for _ in range(500):
            if fake.chain_head() == f"{decision['chain_entry']}:{decision['chain_hash']}":
                break
            time.sleep(0.01)
        assert fake.chain_head() == f"{decision['chain_entry']}:{decision['chain_hash']}"


def test_the_anchor_catches_up_after_an_outage(ledger: Ledger, fake: FakeRegistry) -> None:
    anchor = ChainAnchor([MlflowAnchorStore(fake)], ledger)
    decide(ledger, 3)
    anchor.advance()
    decide(ledger, 700)
    anchor.advance()
    number, digest = ledger.chain.head()
    assert fake.chain_head() == f"{number}:{digest}"


def test_a_malformed_tag_is_refused_and_kept(ledger: Ledger, fake: FakeRegistry) -> None:
    decide(ledger)
    for tag in ("", "1", "1:xyz", f"0:{'a' * 64}"):
        fake.set_chain_head(tag)
        with pytest.raises(hash_chain.BrokenChainError, match="ENTRY:HASH"):
            ChainAnchor([MlflowAnchorStore(fake)], ledger).advance()
        assert fake.chain_head() == tag


def test_the_anchor_is_stored_on_a_real_server(real_world: RealWorld, ledger: Ledger) -> None:
    """The model that holds the tag is made where it is missing, and is no model to anybody who lists them."""
    decide(ledger)
    real_world.registry.set_chain_head("7:" + "a" * 64)
    assert real_world.registry.chain_head() == "7:" + "a" * 64
    real_world.registry.set_chain_head("8:" + "b" * 64)
    assert real_world.registry.chain_head() == "8:" + "b" * 64


def test_every_response_and_log_line_of_a_decision_has_the_hash(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody who kept one of them can prove later that nothing before it was changed."""
    api = start(fake)
    decision = api.promote(adapters, 1).json()
    assert (decision["chain_entry"], decision["chain_hash"]) == ledger.chain.head()
    refused = api.roll_back(adapters, version=1, if_match="x")
    assert refused.status_code == 422
    fake.make_pending(adapters, 2)
    refused = api.promote(adapters, 2).json()
    assert (refused["chain_entry"], refused["chain_hash"]) == ledger.chain.head()
    logged = [vars(record)["fields"] for record in caplog.records if record.message == "decision"]
    assert logged[-1]["chain_hash"] == refused["chain_hash"]
    assert json.dumps(logged)
    assert hash_chain.verify(Ledger(ledger._engine).chain.rows(), head=decision["chain_hash"]).entries == ledger.chain.head()[0]
