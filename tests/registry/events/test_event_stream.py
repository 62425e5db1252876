"""`GET /events`: told once the alias moved, in order, again from any cursor, by every process."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from atelier_contracts.events import AliasMoved
from atelier_contracts.tokens import TokenFile
from atelier_registry.bootstrap import Intervals, build_app
from atelier_registry.config.policy import Policy
from atelier_registry.events.event_stream import EventStream
from atelier_registry.events.webhooks.dispatcher import WebhookDispatcher
from atelier_registry.events.webhooks.offsets import WebhookOffsets
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import AliasLocks
from sqlalchemy import Engine

from ...servers import app_running
from ..conftest import Api
from ..fake_infer_client import FakeInferClient
from ..fake_registry import FakeRegistry


@contextmanager
def served(
    fake: FakeRegistry,
    engine: Engine,
    locks: AliasLocks,
    token_file: Path,
    infer_client: FakeInferClient,
    policy: Policy | None = None,
) -> Iterator[Api]:
    """The service on a port, because a stream that does not end needs a real server."""
    ledger = Ledger(engine)
    event_stream = EventStream(ledger.outbox)
    app = build_app(
        registry=fake,
        ledger=ledger,
        locks=locks,
        event_stream=event_stream,
        webhooks=WebhookDispatcher([], ledger.outbox, WebhookOffsets(engine), locks),
        tokens=TokenFile(token_file),
        policy=policy or Policy(),
        infer_client=infer_client,
        intervals=Intervals(alias_poll_s=0.1, cache_ttl_s=1, integrity_check_s=3600),
    )
    with app_running(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        try:
            yield Api(client)
        finally:
            event_stream.close()


@pytest.fixture
def api(
    fake: FakeRegistry, engine: Engine, locks: AliasLocks, token_file: Path, infer_client: FakeInferClient
) -> Iterator[Api]:
    with served(fake, engine, locks, token_file, infer_client) as api:
        yield api


@contextmanager
def listening(api: Api, **params: Any) -> Iterator[Iterator[Any]]:
    """An iterator over events as they come."""
    with api.client.stream("GET", "/events", params=params, headers=api.as_("rita")._headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines).startswith(": after ")
        yield (AliasMoved.model_validate(json.loads(line[6:])) for line in lines if line.startswith("data: "))


def target_versions(api: Api, **params: Any) -> list[int]:
    """Events that are there already."""
    answer = api.get("/events", follow="false", **params)
    return [json.loads(line[6:])["to_version"] for line in answer.text.splitlines() if line.startswith("data: ")]


def test_an_event_follows_its_decision(api: Api, adapters: str) -> None:
    with listening(api) as events:
        decision = api.promote(adapters, 1).json()
        event = next(events)
        assert (event.model, event.alias, event.from_version, event.to_version) == (adapters, "champion", None, 1)
        assert event.decision == decision["id"]
        api.promote(adapters, 2)
        assert (next(events).to_version, event.id) == (2, 1)


def test_an_outside_move_is_sent_too(api: Api, fake: FakeRegistry, adapters: str) -> None:
    with listening(api) as events:
        fake.point(adapters, "champion", 3)
        assert next(events).to_version == 3


def test_every_process_sends_events_of_the_others(
    fake: FakeRegistry,
    engine: Engine,
    locks: AliasLocks,
    token_file: Path,
    infer_client: FakeInferClient,
    api: Api,
    adapters: str,
) -> None:
    with served(fake, engine, locks, token_file, infer_client) as other, listening(other) as events:
        api.promote(adapters, 1)
        assert next(events).to_version == 1


def test_a_stream_starts_at_any_cursor(api: Api, adapters: str) -> None:
    for number in (1, 2, 3):
        api.promote(adapters, number)
    api.roll_back(adapters)
    assert target_versions(api, after=0) == [1, 2, 3, 2]
    assert target_versions(api, after=2) == [3, 2]
    assert target_versions(api, after=99) == []
    assert target_versions(api) == []
    again = api.get("/events", follow="false", headers={"Last-Event-ID": "3"})
    assert again.text.count("data: ") == 1
    assert {"id: 4", "event: alias.moved"} <= set(again.text.splitlines())


def test_more_events_than_a_page_are_sent(start: Callable[..., Api], fake: FakeRegistry, ledger: Ledger, adapters: str) -> None:
    api = start(fake)
    from atelier_registry.storage.entries import DecisionFacts

    for number in range(250):
        ledger.open("outside", DecisionFacts("outside", "outside", adapters, "champion", None, number, "r"))
    assert target_versions(api, after=0) == list(range(250))


def test_refusals_are_not_sent(api: Api, fake: FakeRegistry, adapters: str) -> None:
    fake.make_pending(adapters, 1)
    assert api.promote(adapters, 1).status_code == 409
    assert target_versions(api, after=0) == []


def test_the_streams_end_with_the_service(
    fake: FakeRegistry, engine: Engine, locks: AliasLocks, token_file: Path, infer_client: FakeInferClient
) -> None:
    with httpx.Client(timeout=60) as client, ExitStack() as stack:
        with served(fake, engine, locks, token_file, infer_client) as api:
            client.base_url = api.client.base_url  # type: ignore[assignment]
            events = stack.enter_context(listening(Api(client)))
        assert next(events, None) is None  # ended, not cut


@pytest.mark.parametrize(("name", "value"), [("after", "-1"), ("after", str(2**63)), ("after", "x")])
def test_invalid_cursors_are_refused(api: Api, name: str, value: str) -> None:
    assert api.get("/events", **{name: value}).status_code == 422  # type: ignore[arg-type]
    assert api.get("/events", headers={"Last-Event-ID": value}).status_code == 422
    assert api.client.get("/events").status_code == 401


def test_clients_that_disconnect_leave_nothing_behind(api: Api, adapters: str) -> None:
    port = api.client.base_url.port
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer rita-secret\r\n\r\n")
            connection.recv(100)
    assert api.promote(adapters, 1).status_code == 200
    assert target_versions(api, after=0) == [1]
