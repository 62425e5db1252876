"""Webhooks as Standard Webhooks describes them: signed, delivered once per attempt, retried with growing delays."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from atelier_service.webhook_hosts import Origin, find_target, parse_hosts
from atelier_service.webhooks import Delivery, deliver, parse_secret, read_secret, retry_delay_s, sign
from standardwebhooks import Webhook, WebhookVerificationError

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
BODY = '{"name": "ä"}'.encode()


class Receiver(BaseHTTPRequestHandler):
    """Answers with the status in its path, and verifies signatures with the reference library."""

    received: list[tuple[str, dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.path, dict(self.headers.items()), body))
        self.send_response(int(self.path.rpartition("/")[2]))
        self.send_header("Retry-After", "7")
        self.send_header("Location", "/200")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (Receiver,), {"received": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def attempt(server: ThreadingHTTPServer, path: str) -> Delivery:
    url = f"http://127.0.0.1:{server.server_port}{path}"
    return deliver(url, parse_secret(SECRET), "msg_1", BODY, user_agent="test", timeout_s=5)


def test_a_receiver_verifies_what_it_gets(receiver: ThreadingHTTPServer) -> None:
    assert attempt(receiver, "/204") == Delivery(204)
    [(_, headers, body)] = receiver.RequestHandlerClass.received  # type: ignore[attr-defined]
    assert Webhook(SECRET).verify(body, headers) == json.loads(BODY)
    assert headers["webhook-id"] == "msg_1"
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)


@pytest.mark.parametrize(
    ("status", "retryable"), [(400, False), (404, False), (410, False), (429, True), (500, True), (503, True)]
)
def test_refusals_and_whether_another_attempt_may_succeed(receiver: ThreadingHTTPServer, status: int, retryable: bool) -> None:
    delivery = attempt(receiver, f"/{status}")
    assert (delivery.succeeded, delivery.is_retryable, delivery.retry_after_s) == (False, retryable, 7.0)
    assert str(status) in delivery.reason


def test_redirects_are_not_followed(receiver: ThreadingHTTPServer) -> None:
    delivery = attempt(receiver, "/302")
    assert not delivery.succeeded and "redirects are not followed" in delivery.reason
    assert len(receiver.RequestHandlerClass.received) == 1  # type: ignore[attr-defined]


def test_no_response_is_retryable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        delivery = deliver(f"http://127.0.0.1:{taken.getsockname()[1]}/", bytes(24), "m", b"{}", user_agent="t", timeout_s=1)
    assert delivery.status is None and delivery.is_retryable and "does not answer" in delivery.reason


def test_the_signature_is_the_specifications_example() -> None:
    sent_at = datetime.fromtimestamp(1614265330, UTC)
    headers = sign(
        parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "msg_p5jXN8AQM9LWM0D4loKWxJek", sent_at, b'{"test": 2432232314}'
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_!!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_" + "A" * 28, "whsec_" + "A" * 100]
)
def test_what_is_no_secret(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="24 to 64 random bytes") as caught:
        parse_secret(text)
    assert "AAAA" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot be read"):
        read_secret(tmp_path / "none")


def test_delays_grow_to_the_bound_and_honour_retry_after() -> None:
    delays = [retry_delay_s(n, first_s=1, factor=4, longest_s=100) for n in range(1, 8)]
    for delay, whole in zip(delays, [1, 4, 16, 64, 100, 100, 100], strict=True):
        assert whole / 2 <= delay <= whole
    assert retry_delay_s(10**6, first_s=1, factor=2, longest_s=100) <= 100
    assert retry_delay_s(1, first_s=1, factor=2, longest_s=100, requested_s=30) == 30
    assert retry_delay_s(1, first_s=1, factor=2, longest_s=100, requested_s=10**9) == 100


def test_hosts_are_listed_with_scheme_and_port() -> None:
    hosts = parse_hosts("example.com, http://hooks.local:8080")
    assert hosts == {Origin("https", "example.com", 443), Origin("http", "hooks.local", 8080)}
    target = find_target("HTTPS://Example.com/a?b=1", hosts, field="callback_url", setting="HOSTS")
    assert (target.origin.host, target.path) == ("example.com", "/a?b=1")
    for url in (
        "https://example.com:444/",
        "http://example.com/",
        "https://a@example.com/",
        "https://example.com/#x",
        "ftp://example.com",
    ):
        with pytest.raises(ValueError, match="callback_url must"):
            find_target(url, hosts, field="callback_url", setting="HOSTS")
    with pytest.raises(ValueError, match="received 'https://x'"):
        parse_hosts("https://x")
