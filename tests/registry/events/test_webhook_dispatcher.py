"""Events posted to subscribers: signed, in order, again after a refusal, by one process, and nothing lost over a restart."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from atelier_registry.config.subscribers import Subscriber
from atelier_registry.events.webhooks.dispatcher import WebhookDispatcher
from atelier_registry.events.webhooks.offsets import WebhookOffsets
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import AliasLocks

from ..api.test_registry_problems import problem
from ..conftest import Api
from ..fake_registry import FakeRegistry
from ..webhook_receiver import Receiver, receiving
from .conftest import KEY


def until(true: Callable[..., Any]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_promotion_is_delivered_signed(
    start: Callable[..., Api],
    fake: FakeRegistry,
    adapters: str,
    ledger: Ledger,
    offsets: WebhookOffsets,
    locks: AliasLocks,
    subscriber: Callable[..., Subscriber],
    receiver: Receiver,
) -> None:
    dispatcher = WebhookDispatcher([subscriber()], ledger.outbox, offsets, locks)
    api = start(fake, webhooks=dispatcher)
    until(lambda: offsets.find("ci"))
    decision = api.promote(adapters, 3).json()
    until(lambda: receiver.got)
    [(headers, body)] = receiver.got
    told = json.loads(body)
    assert told["type"] == "alias.moved"
    wanted = {"model": adapters, "alias": "champion", "from_version": None, "to_version": 3, "decision": decision["id"]}
    assert wanted.items() <= told["data"].items()
    assert headers["webhook-id"] == f"event-{told['data']['id']}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    assert headers["webhook-signature"] == "v1," + base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    until(lambda: offsets.find("ci").last_delivered_at)
    [state] = api.as_("ada").get("/subscribers").json()["subscribers"]
    assert (state["name"], state["pending_events"], state["failed_attempts"], state["problem"]) == ("ci", 0, 0, None)
    assert "hidden" not in json.dumps(state)


def test_a_new_subscriber_starts_after_the_newest_event(
    make_dispatcher: Callable[..., WebhookDispatcher],
    move: Callable[..., None],
    subscriber: Callable[..., Subscriber],
    receiver: Receiver,
    offsets: WebhookOffsets,
) -> None:
    move(1)
    ci = subscriber()
    dispatcher = make_dispatcher(ci)
    move(2)
    dispatcher.deliver(ci)
    assert [event["to_version"] for event in receiver.events()] == [2]
    assert offsets.find("ci").event_id == 2


def test_events_are_filtered_by_model_and_alias(
    make_dispatcher: Callable[..., WebhookDispatcher],
    move: Callable[..., None],
    subscriber: Callable[..., Subscriber],
    receiver: Receiver,
    offsets: WebhookOffsets,
) -> None:
    ci = subscriber(models=["pencil"], aliases=["champion"])
    dispatcher = make_dispatcher(ci)
    move(1, "ink")
    move(2)
    move(3, alias="rival")
    move(4)
    dispatcher.deliver(ci)
    assert [event["to_version"] for event in receiver.events()] == [2, 4]
    assert offsets.find("ci").event_id == 4


@pytest.mark.parametrize(
    ("answer", "reason"),
    [((500, {}), "answered 500"), ((301, {"Location": "http://127.0.0.1:1/"}), "answered 301; redirects are not followed")],
)
def test_a_failed_delivery_is_retried_in_order(
    make_dispatcher: Callable[..., WebhookDispatcher],
    move: Callable[..., None],
    subscriber: Callable[..., Subscriber],
    receiver: Receiver,
    offsets: WebhookOffsets,
    caplog: pytest.LogCaptureFixture,
    answer: tuple[int, dict[str, str]],
    reason: str,
) -> None:
    ci = subscriber()
    dispatcher = make_dispatcher(ci, first_retry_s=0.2)
    receiver.answers = [answer, answer, (204, {})]
    move(1)
    move(2)
    dispatcher.deliver(ci)
    dispatcher.deliver(ci)  # too early: nothing is posted
    assert len(receiver.got) == 1
    offset = offsets.find("ci")
    assert (offset.event_id, offset.failed_attempts, offset.problem) == (0, 1, reason)
    assert offset.failing_since < offset.next_attempt_at
    until(lambda: dispatcher.deliver(ci) or offsets.find("ci").event_id == 2)
    assert [event["to_version"] for event in receiver.events()] == [1, 1, 1, 2]
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 2
    assert (offsets.find("ci").failed_attempts, offsets.find("ci").problem, offsets.find("ci").failing_since) == (0, None, None)
    assert caplog.text.count("webhook delivery failed") == 1


def test_retry_after_is_honoured(
    make_dispatcher: Callable[..., WebhookDispatcher],
    move: Callable[..., None],
    subscriber: Callable[..., Subscriber],
    receiver: Receiver,
    offsets: WebhookOffsets,
) -> None:
    ci = subscriber()
    dispatcher = make_dispatcher(ci)
    receiver.answers = [(429, {"Retry-After": "1800"})]
    move(1)
    dispatcher.deliver(ci)
    assert offsets.find("ci").next_attempt_at > datetime.now(UTC) + timedelta(seconds=1700)


def test_an_unreachable_subscriber_is_recorded(
    make_dispatcher: Callable[..., WebhookDispatcher],
    move: Callable[..., None],
    subscriber: Callable[..., Subscriber],
    offsets: WebhookOffsets,
) -> None:
    ci = subscriber(url="http://127.0.0.1:1/hooks")
    dispatcher = make_dispatcher(ci)
    move(1)
    dispatcher.deliver(ci)
    assert offsets.find("ci").problem.startswith("does not answer: ")


def test_an_invalid_secret_stops_delivery(
    make_dispatcher: Callable[..., WebhookDispatcher],
    move: Callable[..., None],
    subscriber: Callable[..., Subscriber],
    receiver: Receiver,
    offsets: WebhookOffsets,
) -> None:
    ci = subscriber()
    dispatcher = make_dispatcher(ci)
    ci.secret_file.write_text("whsec_AAAA")
    move(1)
    dispatcher.deliver(ci)
    assert receiver.got == []
    assert offsets.find("ci").problem.startswith("its secret_file must contain whsec_ and the base64 of 24 to 64")


def test_an_event_is_given_up_after_the_limit(
    make_dispatcher: Callable[..., WebhookDispatcher],
    move: Callable[..., None],
    subscriber: Callable[..., Subscriber],
    receiver: Receiver,
    offsets: WebhookOffsets,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ci = subscriber(give_up_h=1e-6)
    dispatcher = make_dispatcher(ci, first_retry_s=0.01)
    receiver.answers = [(410, {}), (410, {}), (204, {})]
    move(1)
    move(2)
    until(lambda: dispatcher.deliver(ci) or offsets.find("ci").event_id == 2)
    assert [event["to_version"] for event in receiver.events()] == [1, 1, 2]
    [given_up] = [vars(record)["fields"] for record in caplog.records if record.message == "webhook delivery given up"]
    assert given_up == {"subscriber": "ci", "event": 1, "reason": "answered 410"}


def test_nothing_is_lost_over_a_restart(
    make_dispatcher: Callable[..., WebhookDispatcher],
    move: Callable[..., None],
    subscriber: Callable[..., Subscriber],
    receiver: Receiver,
    offsets: WebhookOffsets,
) -> None:
    ci = subscriber()
    receiver.answers = [(503, {}), (204, {})]
    dispatcher = make_dispatcher(ci, first_retry_s=0.01)
    move(1)
    dispatcher.deliver(ci)
    move(2)
    later = make_dispatcher(ci)  # a new process
    until(lambda: later.deliver(ci) or offsets.find("ci").event_id == 2)
    assert [event["to_version"] for event in receiver.events()] == [1, 1, 2]


def test_one_process_at_a_time_delivers(
    make_dispatcher: Callable[..., WebhookDispatcher],
    move: Callable[..., None],
    subscriber: Callable[..., Subscriber],
    receiver: Receiver,
    offsets: WebhookOffsets,
) -> None:
    ci = subscriber()
    dispatchers = [make_dispatcher(ci) for _ in range(4)]
    for number in range(1, 21):
        move(number)
    threads = [threading.Thread(target=dispatcher.deliver, args=[ci]) for dispatcher in dispatchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event["to_version"] for event in receiver.events()] == list(range(1, 21))
    assert receiver.most_busy == 1
    assert offsets.find("ci").event_id == 20


def test_a_subscriber_that_hangs_does_not_delay_others(
    start: Callable[..., Api],
    fake: FakeRegistry,
    adapters: str,
    ledger: Ledger,
    offsets: WebhookOffsets,
    locks: AliasLocks,
    subscriber: Callable[..., Subscriber],
    receiver: Receiver,
) -> None:
    receiver.hold.clear()
    with receiving() as other:
        dispatcher = WebhookDispatcher([subscriber(), subscriber(name="page", url=other.url)], ledger.outbox, offsets, locks)
        api = start(fake, webhooks=dispatcher)
        until(lambda: offsets.find("ci") and offsets.find("page"))
        assert api.promote(adapters, 1).status_code == 200
        until(lambda: other.got and receiver.busy)
        assert api.promote(adapters, 2).status_code == 200
        until(lambda: len(other.got) == 2)
        assert len(receiver.got) == 1
        begun = time.monotonic()
        dispatcher.stop(0.2)
        assert time.monotonic() - begun < 15  # and so does the end of the process: not for 20 s
        receiver.hold.set()


def test_a_ping_reports_whether_it_was_delivered(
    start: Callable[..., Api],
    fake: FakeRegistry,
    ledger: Ledger,
    offsets: WebhookOffsets,
    locks: AliasLocks,
    subscriber: Callable[..., Subscriber],
    receiver: Receiver,
) -> None:
    api = start(fake, webhooks=WebhookDispatcher([subscriber()], ledger.outbox, offsets, locks))
    admin = api.as_("ada")
    assert admin.post("/subscribers/ci/ping", {}).json() == {"delivered": True, "problem": None}
    assert json.loads(receiver.got[0][1])["type"] == "ping"
    receiver.answers = [(404, {})]
    assert admin.post("/subscribers/ci/ping", {}).json() == {"delivered": False, "problem": "answered 404"}
    assert problem(admin.post("/subscribers/cd/ping", {}), 404) == "no subscriber is named 'cd'; subscribers: ci"
    problem(api.post("/subscribers/ci/ping", {}), 403)
    problem(api.get("/subscribers"), 403)
    assert len(receiver.got) == 2
