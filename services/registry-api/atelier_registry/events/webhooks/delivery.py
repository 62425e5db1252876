"""One event posted to one subscriber, signed as Standard Webhooks says (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass
from typing import Any

import requests

from atelier_registry.config.subscribers import Subscriber, read_secret
from atelier_registry.storage import hash_chain

CONNECT_S = 3.0
_TOLD_CHARACTERS = 200


@dataclass(frozen=True)
class DeliveryRefusal:
    """Why an event did not arrive, and how long the subscriber asks to be left alone."""

    reason: str
    retry_after_s: float = 0.0


def sign(key: bytes, id: str, sent_at: int, body: bytes) -> str:
    """The header `webhook-signature`: HMAC-SHA256 over `id.timestamp.body`, in base64.

    Args:
        key: of the subscriber.
        id: of the message; the same at every try.
        sent_at: seconds since 1970.
        body: as it is sent.
    """
    signed = hmac.digest(key, f"{id}.{sent_at}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(signed).decode()}"


def post(subscriber: Subscriber, id: str, content: dict[str, Any]) -> DeliveryRefusal | None:
    """Posts a message; None where the subscriber took it, with any status from 200 to 299."""
    body, sent_at = hash_chain.canonical(content).encode(), int(time.time())
    try:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "atelier-registry",
            "webhook-id": id,
            "webhook-timestamp": str(sent_at),
            "webhook-signature": sign(read_secret(subscriber.secret_file), id, sent_at, body),
        }
    except ValueError as error:
        return DeliveryRefusal(f"its secret_file {error}")
    waits = (min(CONNECT_S, subscriber.timeout_s), subscriber.timeout_s)
    try:
        with requests.post(
            subscriber.url, body, headers=headers, timeout=waits, allow_redirects=False, stream=True
        ) as answer:  # the body may be endless, and is not needed
            if 200 <= answer.status_code < 300:
                return None
            asked = answer.headers.get("Retry-After", "")
            redirect = "; redirects are not followed" if answer.is_redirect else ""
            return DeliveryRefusal(f"answered {answer.status_code}{redirect}", float(asked) if asked.isdecimal() else 0.0)
    except requests.RequestException as error:
        return DeliveryRefusal(f"does not answer ({type(error).__name__})"[:_TOLD_CHARACTERS])
