"""Webhooks: when a job has ended, its status is posted, signed, to the URL of its request, with retries.

Source: Standard Webhooks 1.0.0, for headers, signature, and an id that stays the same while each attempt has a new timestamp.
"""

from __future__ import annotations

import heapq
import http.client
import itertools
import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from atelier_contracts.generate import WebhookStatus

from atelier_infer.client import webhook_signature
from atelier_infer.generation.webhook_hosts import Origin, WebhookTarget, find_target

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 6

THREADS = 4
"""A receiver that does not answer occupies one of them for timeout_s."""


@dataclass(frozen=True)
class WebhookLimits:
    """Retries and timeouts.

    Attributes:
        first_retry_s: pause after the first failed attempt; 4 times, 16 times, … after the others, up to max_retry_s. With the
            defaults six attempts take about six minutes, so the outcome is known while the job can still be queried.
        timeout_s: longest silence of a receiver.
        queue_limit: webhooks that may be pending; a further one fails at once.
        final_attempt_s: for the last attempts if nothing of the drain time is left.
    """

    first_retry_s: float = 1.0
    max_retry_s: float = 256.0
    timeout_s: float = 10.0
    queue_limit: int = 256
    final_attempt_s: float = 2.0


@dataclass(eq=False)
class Webhook:
    """Of one job."""

    target: WebhookTarget
    id: str
    body: bytes = b""
    state: Literal["pending", "delivered", "failed"] = "pending"
    attempts: int = 0
    last_error: str | None = None

    def status(self) -> WebhookStatus:
        return WebhookStatus(state=self.state, attempts=self.attempts, last_error=self.last_error)


@dataclass(frozen=True)
class Delivery:
    """Result of one attempt.

    Attributes:
        status: of HTTP; None without a response.
        retry_after_s: as the receiver asked.
    """

    status: int | None
    error: str
    retry_after_s: float = 0.0

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def retryable(self) -> bool:
        return self.status is None or self.status == 429 or self.status >= 500


class WebhookSender:
    """Threads that send webhooks from a queue, which is not persisted.

    Args:
        hosts: allowed receivers; without any, nothing runs.
        key: for signatures.
        record_outcome: called with `delivered` or `failed`, once per webhook.
        limits: retries and timeouts.
    """

    def __init__(
        self,
        *,
        hosts: frozenset[Origin],
        key: bytes,
        record_outcome: Callable[[str], None] = lambda outcome: None,
        limits: WebhookLimits | None = None,
    ) -> None:
        self._hosts, self._key, self._record_outcome, self._limits = hosts, key, record_outcome, limits or WebhookLimits()
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, Webhook]] = []
        self._sequence = itertools.count()
        self._deadline = math.inf
        count = THREADS if hosts else 0
        self._threads = [threading.Thread(target=self._run, name=f"webhooks-{n}", daemon=True) for n in range(count)]

    @property
    def pending(self) -> int:
        """Webhooks that wait for their first or next attempt."""
        return len(self._queue)

    def target(self, url: str) -> WebhookTarget:
        """Parses a webhook_url.

        Raises:
            WebhookUrlError: it is not a URL on an allowed host.
        """
        return find_target(url, self._hosts)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, deadline: float) -> None:
        """Gives every pending webhook one last attempt at once, and ends the threads.

        Args:
            deadline: of `time.monotonic`; extended to final_attempt_s from now if it is earlier.
        """
        with self._changed:
            self._deadline = max(deadline, time.monotonic() + self._limits.final_attempt_s)
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, self._deadline - time.monotonic()))
        with self._changed:
            pending, self._queue = [webhook for _, _, webhook in self._queue], []
        for webhook in pending:
            self._fail(webhook, "the service shut down")

    def send(self, webhook: Webhook, body: bytes) -> None:
        """Queues it; returns at once."""
        webhook.body = body
        if not self._enqueue(webhook, 0.0):
            self._fail(webhook, f"{self._limits.queue_limit} webhooks are pending already")

    def _enqueue(self, webhook: Webhook, delay_s: float) -> bool:
        with self._changed:
            if len(self._queue) >= self._limits.queue_limit:
                return False
            heapq.heappush(self._queue, (time.monotonic() + delay_s, next(self._sequence), webhook))
            self._changed.notify()
        return True

    def _run(self) -> None:
        while webhook := self._next():
            try:
                self._attempt(webhook)
            except Exception:  # the thread must go on
                log.exception("unexpected error in webhook delivery")
                self._fail(webhook, "Internal server error; see the log")

    def _next(self) -> Webhook | None:
        """Waits for one that is due; None once the service shuts down and none is pending."""
        with self._changed:
            while True:
                now, stopping = time.monotonic(), self._deadline < math.inf
                if stopping and (not self._queue or now >= self._deadline):
                    return None
                if self._queue and (stopping or self._queue[0][0] <= now):
                    return heapq.heappop(self._queue)[2]
                self._changed.wait(self._queue[0][0] - now if self._queue else None)

    def _attempt(self, webhook: Webhook) -> None:
        webhook.attempts += 1
        delivery = self._post(webhook)
        if delivery.accepted:
            webhook.last_error = None
            webhook.state = "delivered"  # last, because other threads read both
            self._record_outcome("delivered")
            return
        webhook.last_error = delivery.error
        delay_s = max(backoff_s(webhook.attempts, self._limits), min(delivery.retry_after_s, self._limits.max_retry_s))
        retry = delivery.retryable and webhook.attempts < MAX_ATTEMPTS and self._deadline == math.inf
        if not (retry and self._enqueue(webhook, delay_s)):
            self._fail(webhook, delivery.error)

    def _post(self, webhook: Webhook) -> Delivery:
        (scheme, host, port), path, _ = webhook.target
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "atelier-infer",
            "webhook-id": webhook.id,
            "webhook-timestamp": timestamp,
            "webhook-signature": webhook_signature(self._key, webhook.id, timestamp, webhook.body),
        }
        connection_class = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        timeout_s = max(0.1, min(self._limits.timeout_s, self._deadline - time.monotonic()))
        connection = connection_class(host, port, timeout=timeout_s)
        try:
            connection.request("POST", path, webhook.body, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            return Delivery(None, f"no response: {type(error).__name__}: {error}"[:300])
        finally:
            connection.close()
        redirect = "; redirects are not followed" if 300 <= response.status < 400 else ""
        after = response.getheader("Retry-After", "")
        return Delivery(response.status, f"status {response.status}{redirect}", float(after) if after.isdecimal() else 0.0)

    def _fail(self, webhook: Webhook, error: str) -> None:
        webhook.last_error = error
        webhook.state = "failed"
        fields = {
            "webhook_id": webhook.id,
            "host": webhook.target.origin.host,  # not the path, which may contain a secret
            "attempts": webhook.attempts,
            "reason": error,
        }
        log.warning("webhook delivery failed", extra={"fields": fields})
        self._record_outcome("failed")


def backoff_s(attempts: int, limits: WebhookLimits) -> float:
    """Exponential, with up to half taken off at random, so that retries do not reach a receiver all at once."""
    jitter = random.uniform(0.5, 1.0)  # noqa: S311  not a secret
    return min(limits.max_retry_s, limits.first_retry_s * 4.0 ** (attempts - 1)) * jitter
