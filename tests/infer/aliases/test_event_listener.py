"""Events of registry-api as the fast path, and what happens without them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from atelier_contracts.events import ALIAS_EVENT, STYLE_EVENT, AliasMoved, StyleEdited
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from atelier_contracts.styles import StyleEdits
from atelier_infer.aliases.event_listener import EventListener, parse_events
from hypothesis import given
from hypothesis import strategies as st

from ..conftest import Service, wait
from ..fake_store import FakeStore
from ..tiny_bundle import adapter_tensors, build_adapter


class EventServer(ThreadingHTTPServer):
    """Speaks as registry-api does: a stream of server-sent events, one for each `move`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[Any] = []
        self.events: list[AliasMoved | StyleEdited] = []
        self.status, self.cut = 200, False
        self.changed = threading.Condition()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def move(self, model: str, version: int = 2) -> None:
        with self.changed:
            id = len(self.events) + 1
            self.events.append(
                AliasMoved(
                    id=id, at="2026-01-01T00:00:00Z", model=model, alias="champion",
                    from_version=1, to_version=version, decision=id,
                )
            )  # fmt: skip
            self.changed.notify_all()

    def edit_style(self, model: str) -> None:
        with self.changed:
            id = len(self.events) + 1
            self.events.append(
                StyleEdited(id=id, at="2026-01-01T00:00:00Z", model=model, decision=id, edits=StyleEdits(title="x"))
            )
            self.changed.notify_all()

    def hang_up(self) -> None:
        with self.changed:
            self.cut = True
            self.changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: str) -> None:
        pass

    def do_GET(self) -> None:
        server = cast(EventServer, self.server)
        sent, server.cut = len(server.events), False  # before anybody can know that the stream is there
        server.asked.append((self.path, self.headers["Authorization"]))
        self.send_response(server.status)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        if server.status != 200:
            return
        self.wfile.write(b": hello\n\n")
        while not server.cut:
            with server.changed:
                server.changed.wait_for(lambda sent=sent: server.cut or len(server.events) > sent, 20)  # type: ignore[misc]
                fresh, sent = server.events[sent:], len(server.events)
            for event in fresh:
                name = ALIAS_EVENT if isinstance(event, AliasMoved) else STYLE_EVENT
                self.wfile.write(f"id: {event.id}\nevent: {name}\ndata: {event.model_dump_json()}\n\n".encode())


@pytest.fixture
def events() -> Iterator[EventServer]:
    server = EventServer()
    yield server
    server.hang_up()
    server.shutdown()
    server.server_close()


@pytest.fixture
def follow(events: EventServer) -> Iterator[Callable[..., list[int]]]:
    started = []

    def follow() -> list[int]:
        reads = []
        listener = EventListener(
            url=events.url,
            token="the token",
            model="sketches",
            on_change=lambda: reads.append(1),
            first_retry_s=0.01,
            max_retry_s=0.05,
        )
        started.append(listener)
        listener.start()
        return reads

    yield follow
    for listener in started:
        listener.stop()


def test_a_promotion_takes_effect_without_a_poll(
    make_service: Callable[..., Service],
    store: FakeStore,
    adapter: tuple[Path, AdapterManifest],
    events: EventServer,
    bundle: tuple[Path, BundleManifest],
    tmp_path: Path,
) -> None:
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    # nothing but an event or a first request wakes the thread
    service = make_service(alias_poll_s=3600, registry_url=events.url, registry_token="the token")
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    service.wait(lambda: events.asked)
    service.wait(lambda: service.generate().headers.get("x-atelier-version") == "1")
    build_adapter(tmp_path / "second", bundle[1].digest(), adapter_tensors(seed=5))
    store.set_alias("champion", store.publish_adapter(tmp_path / "second"))
    events.move(store.model)
    service.wait(lambda: service.generate().headers["x-atelier-version"] == "2")
    assert events.asked[0] == ("/events", "Bearer the token")


def test_polling_goes_on_without_a_stream(
    make_service: Callable[..., Service], store: FakeStore, adapter: tuple[Path, AdapterManifest], events: EventServer
) -> None:
    events.status = 503
    service = make_service(alias_poll_s=0.05, registry_url=events.url, registry_token="the token")
    service.wait(lambda: events.asked)
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    service.wait(lambda: service.generate().status_code == 200)


def test_a_lost_stream_is_taken_up_where_it_broke(events: EventServer, follow: Callable[..., list[int]]) -> None:
    looks = follow()
    wait(lambda: len(looks) == 1)  # once per connection
    events.move("sketches")
    wait(lambda: len(looks) == 2)
    events.hang_up()
    wait(lambda: len(events.asked) >= 2)
    assert events.asked[1][0] == "/events?after=1"
    wait(lambda: len(looks) == 3)


def test_an_edited_style_is_read_at_once(events: EventServer, follow: Callable[..., list[int]]) -> None:
    looks = follow()
    wait(lambda: len(looks) == 1)
    events.edit_style("photos")
    events.edit_style("sketches")
    wait(lambda: len(looks) == 2)
    events.hang_up()
    wait(lambda: len(events.asked) >= 2)
    assert events.asked[1][0] == "/events?after=2"


def test_another_models_events_move_the_cursor_only(events: EventServer, follow: Callable[..., list[int]]) -> None:
    looks = follow()
    wait(lambda: len(looks) == 1)
    events.move("photos")
    events.move("sketches")
    wait(lambda: len(looks) == 2)
    events.hang_up()
    wait(lambda: len(events.asked) >= 2)
    assert events.asked[1][0] == "/events?after=2"


def test_an_outage_is_logged_once(
    events: EventServer, follow: Callable[..., list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    events.status = 503
    follow()
    wait(lambda: len(events.asked) > 4)
    assert len([record for record in caplog.records if "event stream unavailable" in record.getMessage()]) == 1


def test_comments_and_unknown_fields_are_passed_over() -> None:
    lines = [
        b": hello",
        b"",
        b"id: 4",
        b"event: alias.moved",
        b"retry: 5",
        b"data: {",
        b"data: }",
        b"",
        b"data:bare",
        b"",
        b"data: cut",
    ]
    assert list(parse_events(lines)) == [("alias.moved", "{\n}"), ("message", "bare")]


@given(st.lists(st.binary(max_size=40)))
def test_no_bytes_break_it(lines: list[bytes]) -> None:
    assert all(isinstance(name, str) and isinstance(data, str) for name, data in parse_events(lines))
