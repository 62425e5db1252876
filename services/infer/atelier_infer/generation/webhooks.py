"""Webhooks: when a job has ended, its status is posted, signed, to the URL of its request, with retries.

Source: Standard Webhooks 1.0.0, for headers, signature, and an id that stays the same while each attempt has a new timestamp.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from atelier_contracts.generate import WebhookStatus
from atelier_service.webhook_hosts import Origin, WebhookTarget, find_target
from atelier_service.webhooks import Delivery, deliver, retry_delay_s

from atelier_infer.errors import WebhookUrlError

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 6
USER_AGENT = "atelier-infer"

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
        try:
            return find_target(url, self._hosts, field="webhook_url", setting="ATELIER_INFER_WEBHOOK_HOSTS")
        except ValueError as error:
            raise WebhookUrlError(str(error)) from None

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
        if delivery.succeeded:
            webhook.last_error = None
            webhook.state = "delivered"  # last, because other threads read both
            self._record_outcome("delivered")
            return
        webhook.last_error = delivery.reason
        delay_s = retry_delay_s(
            webhook.attempts,
            first_s=self._limits.first_retry_s,
            factor=4.0,
            longest_s=self._limits.max_retry_s,
            requested_s=delivery.retry_after_s,
        )
        retry = delivery.is_retryable and webhook.attempts < MAX_ATTEMPTS and self._deadline == math.inf
        if not (retry and self._enqueue(webhook, delay_s)):
            self._fail(webhook, delivery.reason)

    def _post(self, webhook: Webhook) -> Delivery:
        timeout_s = max(0.1, min(self._limits.timeout_s, self._deadline - time.monotonic()))
        return deliver(webhook.target.url, self._key, webhook.id, webhook.body, user_agent=USER_AGENT, timeout_s=timeout_s)

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
