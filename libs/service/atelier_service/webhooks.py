"""Signed webhooks: one attempt to deliver a message, and how long to wait before the next.

Headers and signature are those of Standard Webhooks 1.0.0 (https://www.standardwebhooks.com): `webhook-id` stays the same over
all attempts, `webhook-timestamp` is that of the attempt.
"""

from __future__ import annotations

import base64
import binascii
import random
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import requests
from standardwebhooks import Webhook

PREFIX = "whsec_"
_SECRET_BYTES = (24, 64)
_CONNECT_S = 3.0
_REASON_CHARACTERS = 200


def parse_secret(text: str) -> bytes:
    """The key of a signing secret: `whsec_` and 24 to 64 bytes in base64.

    Raises:
        ValueError: it is not; the message does not show it.
    """
    rule = f"must contain {PREFIX} and the base64 of {_SECRET_BYTES[0]} to {_SECRET_BYTES[1]} random bytes"
    try:
        key = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(rule) from None
    if not text.strip().startswith(PREFIX) or not _SECRET_BYTES[0] <= len(key) <= _SECRET_BYTES[1]:
        raise ValueError(rule)
    return key


def read_secret(file: Path) -> bytes:
    """The key in a file.

    Raises:
        ValueError: the file cannot be read, or holds no secret.
    """
    try:
        return parse_secret(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read ({type(error).__name__})") from None


@dataclass(frozen=True)
class Delivery:
    """What came of one attempt.

    Attributes:
        status: HTTP status; none without a response.
        reason: why it failed; empty after a success.
        retry_after_s: the response's Retry-After.
    """

    status: int | None
    reason: str = ""
    retry_after_s: float = 0.0

    @property
    def succeeded(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_retryable(self) -> bool:
        """Whether another attempt may succeed: no response, too many requests, or a server error."""
        return self.status is None or self.status == 429 or self.status >= 500


def sign(key: bytes, message_id: str, sent_at: datetime, body: bytes) -> dict[str, str]:
    """The three headers of a signed message."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": Webhook(key).sign(message_id, sent_at, body.decode()),
    }


def deliver(url: str, key: bytes, message_id: str, body: bytes, *, user_agent: str, timeout_s: float) -> Delivery:
    """Posts a message once. Redirects are not followed, and the response's body is not read.

    Args:
        url: of the receiver.
        key: of its secret.
        message_id: the same at every attempt.
        body: UTF-8 JSON.
        user_agent: of the service.
        timeout_s: longest silence of the receiver; it has 3 s at most to accept the connection.
    """
    headers = {"Content-Type": "application/json", "User-Agent": user_agent, **sign(key, message_id, datetime.now(UTC), body)}
    try:
        with requests.post(
            url, body, headers=headers, timeout=(min(_CONNECT_S, timeout_s), timeout_s), allow_redirects=False, stream=True
        ) as response:
            if 200 <= response.status_code < 300:
                return Delivery(response.status_code)
            requested = response.headers.get("Retry-After", "")
            redirect = "; redirects are not followed" if response.is_redirect else ""
            retry_after_s = float(requested) if requested.isdecimal() else 0.0
            return Delivery(response.status_code, f"answered {response.status_code}{redirect}", retry_after_s)
    except (requests.RequestException, UnicodeError) as error:
        return Delivery(None, f"does not answer: {_cause(error)}"[:_REASON_CHARACTERS])


def _cause(error: Exception) -> str:
    """What went wrong below requests, whose own message repeats the URL, which may hold a secret."""
    cause = getattr(error.args[0], "reason", None) if error.args else None
    if cause is None:
        return type(error).__name__
    return re.sub(r"^\w+\(.*?\): |^<.*?>: ", "", str(cause))


def retry_delay_s(failures: int, *, first_s: float, factor: float, longest_s: float, requested_s: float = 0.0) -> float:
    """How long to wait before the next attempt: `first_s * factor ** (failures - 1)`, up to a half less at random.

    Args:
        failures: attempts that failed, at least 1.
        first_s: after the first failure.
        factor: from one delay to the next.
        longest_s: the upper bound.
        requested_s: the receiver's Retry-After; honoured up to `longest_s`.
    """
    grown = min(first_s * factor ** min(failures - 1, 60), longest_s)
    return max(grown * random.uniform(0.5, 1.0), min(requested_s, longest_s))  # noqa: S311  to spread load
