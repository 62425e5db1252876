"""The sender of webhooks without a service: its queue, its threads, and its shutdown."""

from __future__ import annotations

import time
from typing import Any

import pytest
from atelier_infer.client import webhook_key
from atelier_infer.generation import webhooks
from atelier_infer.generation.webhooks import Webhook, WebhookLimits, WebhookSender
from atelier_service.webhook_hosts import Origin, WebhookTarget, parse_hosts

from ..conftest import wait
from ..webhook_receiver import SIGNING, Receiver


def webhook_to(place: str) -> Webhook:
    return Webhook(WebhookTarget(Origin("http", *_split(place)), "/", f"http://{place}/"), "msg_1")


def _split(place: str) -> tuple[str, int]:
    host, _, port = place.partition(":")
    return host, int(port)


def make_sender(place: str, outcomes: list[str], **limits: Any) -> WebhookSender:
    return WebhookSender(
        hosts=parse_hosts(f"http://{place}"),
        key=webhook_key(SIGNING),
        record_outcome=outcomes.append,
        limits=WebhookLimits(**limits),
    )


def test_shutdown_gives_pending_webhooks_one_last_attempt(receiver: Receiver) -> None:
    receiver.answers = [(503, {"Retry-After": "200"}), (503, {"Retry-After": "200"}), (204, {})]
    outcomes: list[str] = []
    sender = make_sender(receiver.place, outcomes)
    sender.start()
    one, other = webhook_to(receiver.place), webhook_to(receiver.place)
    for sent in (one, other):
        sender.send(sent, b"{}")
    wait(lambda: sender.pending == 2 and one.attempts == other.attempts == 1)
    sender.stop(time.monotonic() + 20)
    assert (one.state, other.state, one.attempts, other.attempts) == ("delivered", "delivered", 2, 2)
    assert outcomes == ["delivered"] * 2
    assert not any(thread.is_alive() for thread in sender._threads)


def test_a_last_attempt_that_fails_is_final(receiver: Receiver) -> None:
    receiver.answers = [(503, {})]
    sender = make_sender(receiver.place, [])
    sender.start()
    sent = webhook_to(receiver.place)
    sender.send(sent, b"{}")
    wait(lambda: sender.pending == 1 and sent.attempts == 1)
    sender.stop(time.monotonic() + 20)
    assert (sent.state, sent.attempts, sent.last_error) == ("failed", 2, "answered 503")


def test_a_silent_receiver_does_not_delay_the_shutdown(receiver: Receiver) -> None:
    receiver.hold.clear()
    sender = make_sender(receiver.place, [], final_attempt_s=0.2)
    sender.start()
    sent = [webhook_to(receiver.place) for _ in range(webhooks.THREADS + 3)]
    for one in sent:
        sender.send(one, b"{}")
    wait(lambda: len(receiver.came) == webhooks.THREADS)
    sender.stop(time.monotonic())  # returns although every thread hangs
    assert [one.last_error for one in sent if one.attempts == 0] == ["the service shut down"] * 3


def test_a_webhook_beyond_the_queue_limit_fails_at_once(receiver: Receiver) -> None:
    sender = make_sender(receiver.place, [], queue_limit=2)  # not started: nothing leaves the queue
    sent = [webhook_to(receiver.place) for _ in range(3)]
    for one in sent:
        sender.send(one, b"{}")
    assert [one.state for one in sent] == ["pending", "pending", "failed"]
    assert sent[2].last_error == "2 webhooks are pending already"


def test_an_unexpected_error_does_not_end_the_threads(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = make_sender(receiver.place, [])
    with monkeypatch.context() as patch:
        patch.setattr(WebhookSender, "_post", lambda *_: 1 / 0)
        sender.start()
        sent = [webhook_to(receiver.place) for _ in range(webhooks.THREADS + 1)]
        for one in sent:
            sender.send(one, b"{}")
        wait(lambda: all(one.state == "failed" for one in sent))
    sender.send(last := webhook_to(receiver.place), b"{}")
    wait(lambda: last.state == "delivered")
    sender.stop(time.monotonic())
