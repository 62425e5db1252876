"""The hash chain: any change to any entry is found, and the first broken place is named."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from atelier_registry.storage import hash_chain
from atelier_registry.storage.entries import DecisionFacts
from atelier_registry.storage.ledger import Ledger
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine


def rows(count: int = 6) -> Any:
    """A chain as the ledger makes it."""
    made, previous = [], hash_chain.GENESIS
    for number in range(1, count + 1):
        row = {
            "id": number, "decision": number, "kind": "done", "at": f"2026-01-01T00:00:0{number}.000000Z", "actor": "pia",
            "action": "promote", "model": "m", "alias": "champion", "from_version": None, "to_version": number, "reason": "r",
            "forced": False, "key": None, "details": "{}", "previous_hash": previous,
        }  # fmt: skip
        previous = hash_chain.digest(row)
        made.append(row | {"hash": previous})
    return made


def test_an_intact_chain_is_verified() -> None:
    assert hash_chain.verify(rows()) == hash_chain.VerifiedChain(6, rows()[-1]["hash"])
    assert hash_chain.verify([]) == hash_chain.VerifiedChain(0, hash_chain.GENESIS)
    assert hash_chain.verify(rows(), head=rows()[2]["hash"]).entries == 6


@given(st.integers(0, 5), st.sampled_from(sorted(rows()[0].keys() - {"id", "hash"})), st.text(max_size=5))
def test_a_changed_field_is_found_in_its_entry(place: int, column: str, value: str) -> None:
    made = rows()
    if made[place][column] == value:
        return
    made[place] = made[place] | {column: value}
    with pytest.raises(hash_chain.BrokenChainError, match=f"entry {place + 1} "):
        hash_chain.verify(made)


@given(st.integers(0, 4))
def test_a_missing_entry_is_found(place: int) -> None:
    made = rows()
    del made[place]
    with pytest.raises(hash_chain.BrokenChainError, match=f"entry {place + 1} is missing"):
        hash_chain.verify(made)


@given(st.permutations(range(6)))
def test_another_order_is_found(order: list[int]) -> None:
    if list(order) != list(range(6)):
        with pytest.raises(hash_chain.BrokenChainError):
            hash_chain.verify([rows()[place] for place in order])


def test_a_rewritten_entry_is_found_by_the_next_one() -> None:
    made = rows()
    made[2] = made[2] | {"actor": "eve"}
    made[2]["hash"] = hash_chain.digest(made[2])
    with pytest.raises(hash_chain.BrokenChainError, match="entry 4 refers to"):
        hash_chain.verify(made)


def test_a_removed_end_is_found_with_a_known_head() -> None:
    hash_chain.verify(rows()[:4])
    with pytest.raises(hash_chain.BrokenChainError, match="the end was removed"):
        hash_chain.verify(rows()[:4], head=rows()[-1]["hash"])


def broken(made: list[Any], **given: Any) -> str:
    with pytest.raises(hash_chain.BrokenChainError) as caught:
        hash_chain.verify(made, **given)
    return str(caught.value)


def test_messages_name_the_entry_and_both_hashes() -> None:
    made = rows()
    hashes = [row["hash"] for row in made]
    assert broken(made[:3] + made[4:]) == "entry 4 is missing: entry 3 is followed by entry 5"
    linked = [*made[:2], made[2] | {"previous_hash": "f" * 64}]
    assert broken(linked) == f"entry 3 refers to the hash {'f' * 64}, but entry 2 has the hash {hashes[1]}"
    changed = [*made[:3], made[3] | {"actor": "eve"}]
    expected = hash_chain.digest(changed[3])
    assert broken(changed) == f"entry 4 was changed: its stored hash is {hashes[3]}, the hash of its content is {expected}"


@pytest.mark.parametrize("number", [1, 3, 6])
@pytest.mark.parametrize("anchored", ["0" * 64, "f" * 64])
def test_a_chain_that_differs_from_an_anchor_is_found(number: int, anchored: str) -> None:
    made = rows()
    own = made[number - 1]["hash"]
    message = f"entry {number} was anchored in mlflow with the hash {anchored}, and now has the hash {own}"
    assert broken(made, anchors={"s3": (number, own), "mlflow": (number, anchored)}) == message
    assert hash_chain.verify(made, anchors={"s3": (number, own), "mlflow": (number, own)}).entries == 6


def test_a_chain_that_ends_before_an_anchor_is_found() -> None:
    made = rows()
    anchors = {"s3": (5, made[4]["hash"])}
    assert hash_chain.verify(made[:5], anchors=anchors).entries == 5
    assert (
        broken(made[:4], anchors=anchors) == "entry 5 was anchored in s3, but the chain ends at entry 4: the rest was removed"
    )
    assert broken([], anchors=anchors).endswith("the chain ends at entry 0: the rest was removed")


@pytest.mark.parametrize("head", ["0" * 63 + "1", "f" * 64])
def test_a_head_that_does_not_occur_is_found(head: str) -> None:
    assert broken(rows(), head=head) == (
        f"the hash {head} does not occur among the 6 entries: the end was removed, or the chain was rewritten"
    )
    assert hash_chain.verify(rows(), head="".join([*"0" * 64])).entries == 6  # the start, as another object


def test_content_without_a_json_form_has_no_digest() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            hash_chain.canonical({"number": value})
    assert hash_chain.canonical({"b": "ä", "a": [1, None]}) == '{"a":[1,null],"b":"\\u00e4"}'


def test_the_database_refuses_changes(engine: Engine, ledger: Ledger) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    ledger.open("refused", DecisionFacts("pia", "promote", "m", "champion", None, 1, "r"))
    for statement in ("UPDATE entries SET actor = 'eve'", "DELETE FROM entries"):
        with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
            connection.execute(text(statement))
    assert hash_chain.verify(ledger.chain.rows()).entries == 1


def test_a_change_without_the_triggers_is_found(engine: Engine, ledger: Ledger, request: pytest.FixtureRequest) -> None:
    for number in (1, 2, 3):
        ledger.open("refused", DecisionFacts("pia", "promote", "m", "champion", None, number, "r", details={"ü": 1.5}))
    if engine.dialect.name == "sqlite":
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER entries_no_update")
            connection.exec_driver_sql("UPDATE entries SET reason = 'better' WHERE id = 2")
    else:
        url = engine.url.render_as_string(hide_password=False)
        request.getfixturevalue("postgres").run(url, "ALTER TABLE entries DISABLE TRIGGER entries_locked")
        request.getfixturevalue("postgres").run(url, "UPDATE entries SET reason = 'better' WHERE id = 2")
    with pytest.raises(hash_chain.BrokenChainError, match="entry 2 was changed"):
        hash_chain.verify(ledger.chain.rows())


def test_migrations_create_the_declared_tables(engine: Engine) -> None:
    from atelier_registry.storage.migrate import migrate
    from atelier_registry.storage.tables import metadata
    from sqlalchemy import inspect

    migrate(engine)  # again: nothing to do
    found = inspect(engine)
    for table in metadata.tables.values():
        columns = {column["name"]: (str(column["type"]), column["nullable"]) for column in found.get_columns(table.name)}
        assert columns == {
            column.name: (column.type.compile(engine.dialect), bool(column.nullable)) for column in table.columns
        }
        assert {index["name"] for index in found.get_indexes(table.name)} == {index.name for index in table.indexes}
    assert set(found.get_table_names()) == {"entries", "events", "webhook_offsets", "alembic_version"}


def test_a_database_of_the_first_release_is_migrated(engine: Engine, ledger: Ledger) -> None:
    from atelier_registry.storage.migrate import migrate
    from sqlalchemy import inspect

    ledger.open("outside", DecisionFacts("outside", "outside", "pencil", "champion", None, 1, "moved"))
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE webhook_offsets")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    migrate(engine)
    assert "webhook_offsets" in inspect(engine).get_table_names()
    assert hash_chain.verify(ledger.chain.rows()).entries == 1


def test_positions_of_subscribers_survive_the_renaming_of_their_table(engine: Engine) -> None:
    """Revision 0003 on a table that an earlier release filled: no event is lost or sent twice."""
    from atelier_registry.events.webhooks.offsets import WebhookOffset, WebhookOffsets
    from atelier_registry.storage.migrate import migrate

    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE webhook_offsets")
        connection.exec_driver_sql(
            "CREATE TABLE places (name VARCHAR(64) PRIMARY KEY, event BIGINT NOT NULL, tries INTEGER NOT NULL, "
            "refused_since VARCHAR(27), next_try VARCHAR(27), problem TEXT, taken_at VARCHAR(27))"
        )
        connection.exec_driver_sql(
            "INSERT INTO places VALUES ('ci', 41, 2, '2026-03-01T09:30:00.000000Z', '2026-03-01T09:30:08.000000Z', "
            "'answered 502', '2026-02-27T16:04:00.310000Z')"
        )
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0002'")
    migrate(engine)
    assert WebhookOffsets(engine).find("ci") == WebhookOffset(
        subscriber="ci",
        event_id=41,
        failed_attempts=2,
        failing_since=datetime(2026, 3, 1, 9, 30, tzinfo=UTC),
        next_attempt_at=datetime(2026, 3, 1, 9, 30, 8, tzinfo=UTC),
        problem="answered 502",
        last_delivered_at=datetime(2026, 2, 27, 16, 4, 0, 310000, tzinfo=UTC),
    )


def test_a_database_of_a_later_release_is_refused(engine: Engine) -> None:
    from atelier_registry.errors import SchemaError
    from atelier_registry.storage.migrate import migrate

    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaError, match="revision 9999"):
        migrate(engine)


def test_two_processes_may_migrate_at_once(database_url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from atelier_registry.storage.database import open_database
    from atelier_registry.storage.migrate import migrate

    engines = [open_database(database_url) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(migrate, engines))
    assert hash_chain.verify(Ledger(engines[0]).chain.rows()).entries == 0
    for engine in engines:
        engine.dispose()
