"""The table of decisions as it grows: read once, and stamped by clocks that differ."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from sqlite3 import Cursor
from typing import Any

import pytest
from atelier_contracts.promotion import Decision
from atelier_registry.storage import hash_chain
from atelier_registry.storage.entries import DecisionFacts
from atelier_registry.storage.ledger import Ledger
from sqlalchemy import Engine, event
from sqlalchemy.dialects.sqlite.base import SQLiteExecutionContext
from sqlalchemy.engine.base import Connection

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def move(ledger: Ledger, version: int, alias: str = "champion", model: str = "pencil") -> Decision:
    return ledger.open("outside", DecisionFacts("outside", "outside", model, alias, None, version, "moved"))


def test_each_entry_is_read_once_for_the_latest_moves(engine: Engine) -> None:
    """Whoever watches asks every few seconds: the work grows with what is new, not with the history."""
    writer, watcher = Ledger(engine), Ledger(engine)
    for version in range(1, 41):
        move(writer, version, alias=f"a{version % 3}")
    latest = watcher.alias_moves.latest_by_alias()
    assert {alias: move.to_version for (_, alias), move in latest.items()} == {
        "a1": 40,
        "a2": 38,
        "a0": 39,
    }
    read = []

    def counting(
        connection: Connection,
        cursor: Cursor,
        statement: str,
        parameters: tuple[Any, ...],
        context: SQLiteExecutionContext,
        executemany: bool,
    ) -> None:
        read.append((statement, parameters))

    event.listen(engine, "after_cursor_execute", counting)
    move(writer, 41, alias="a1")
    read.clear()
    assert watcher.alias_moves.latest_by_alias()["pencil", "a1"].to_version == 41
    event.remove(engine, "after_cursor_execute", counting)
    [moves] = [parameters for statement, parameters in read if "kind IN" in statement]
    assert 40 in (moves.values() if isinstance(moves, dict) else moves)  # type: ignore[unreachable]  # what comes after entry 40
    assert watcher.alias_moves.latest_by_alias() == Ledger(engine).alias_moves.latest_by_alias()


def test_a_clock_that_was_set_back_keeps_the_order(engine: Engine) -> None:
    times = iter([NOW, NOW - timedelta(minutes=4), NOW + timedelta(seconds=1)])
    ledger = Ledger(engine, clock=lambda: next(times))
    stamps = [move(ledger, version).at for version in (1, 2, 3)]
    assert stamps == [NOW, NOW, NOW + timedelta(seconds=1)]
    assert hash_chain.verify(ledger.chain.rows()).entries == 3


def test_one_entry_from_the_future_does_not_stamp_the_later_ones(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Found in practice: a year ahead for one decision, and every later one said the same time."""
    ahead = NOW + timedelta(days=365)
    times = iter([NOW, ahead, NOW + timedelta(seconds=1), NOW + timedelta(seconds=2)])
    ledger = Ledger(engine, clock=lambda: next(times))
    stamps = [move(ledger, version).at for version in (1, 2, 3, 4)]
    assert stamps == [NOW, ahead, NOW + timedelta(seconds=1), NOW + timedelta(seconds=2)]
    assert "newest entry is dated in the future" in caplog.text
    assert ledger.alias_moves.last("pencil", "champion", NOW + timedelta(seconds=1)).to_version == 3
