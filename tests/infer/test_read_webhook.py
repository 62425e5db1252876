"""What a receiver does with a callback: the signature, and what is refused."""

from __future__ import annotations

import base64
import time

import pytest
from atelier_infer.client import SignatureError, read_webhook, webhook_key, webhook_signature

from .webhook_receiver import SIGNING


def signed(body: bytes = b'{"id": "x"}', id: str = "msg_1", age_s: float = 0, secret: str = SIGNING) -> dict[str, str]:
    timestamp = str(int(time.time() - age_s))
    signature = webhook_signature(webhook_key(secret), id, timestamp, body)
    return {"Webhook-Id": id, "WEBHOOK-TIMESTAMP": timestamp, "webhook-signature": signature}


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """With the vector that the specification's own libraries test with."""
    key = webhook_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = webhook_signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_what_is_signed_is_read() -> None:
    headers = signed()
    assert read_webhook(SIGNING, headers, b'{"id": "x"}') == {"id": "x"}
    several = "v1,bm9uZQ== v1a,x " + headers["webhook-signature"]  # while a secret changes
    assert read_webhook(SIGNING, headers | {"webhook-signature": several}, b'{"id": "x"}') == {"id": "x"}


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (signed(b'{"id": "y"}'), "no signature"),
        (signed(secret="whsec_" + base64.b64encode(bytes(32)).decode()), "no signature"),
        (signed() | {"Webhook-Id": "msg_2"}, "no signature"),
        (signed() | {"WEBHOOK-TIMESTAMP": str(int(time.time()) + 1)}, "no signature"),
        (signed() | {"webhook-signature": ""}, "no signature"),
        (signed() | {"webhook-signature": "v1,é"}, "no signature"),
        (signed(age_s=3600), "more than 300 s"),
        (signed(age_s=-3600), "more than 300 s"),
        ({}, "'webhook-id' is missing"),
    ],
)
def test_what_is_not_is_refused(headers: dict[str, str], words: str) -> None:
    with pytest.raises(SignatureError, match=words):
        read_webhook(SIGNING, headers, b'{"id": "x"}')


@pytest.mark.parametrize("secret", ["", "whsec_!!", "sk_" + SIGNING[6:], "whsec_c2hvcnQ=", "whsec_" + "A" * 100])
def test_a_secret_that_is_none_is_not_repeated(secret: str) -> None:
    with pytest.raises(ValueError, match="must be whsec_ and the base64 of 24 to 64 random bytes") as caught:
        read_webhook(secret, signed(), b"{}")
    assert not secret or secret not in str(caught.value)


def test_the_documented_way_to_make_a_secret() -> None:
    """`head -c 32 | base64` of the README."""
    assert webhook_key("whsec_" + base64.b64encode(bytes(32)).decode() + "\n") == bytes(32)
