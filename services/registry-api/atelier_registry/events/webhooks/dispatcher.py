"""Delivers events to subscribers: in order, at least once, with growing delays after a failure.

An offset moves on after the subscriber accepted an event, so a process that dies in between delivers it once more, with the
same `webhook-id`. Of several processes of this service, one at a time delivers to a subscriber.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from atelier_service.webhooks import Delivery, deliver, read_secret, retry_delay_s

from atelier_registry.config.subscribers import Subscriber
from atelier_registry.errors import AliasBusyError, RegistryApiError, UnknownSubscriberError
from atelier_registry.events.event_types import read_event
from atelier_registry.events.webhooks.offsets import WebhookOffset, WebhookOffsets
from atelier_registry.storage import hash_chain
from atelier_registry.storage.locks import AliasLocks
from atelier_registry.storage.outbox import Outbox

log = logging.getLogger(__name__)

MAX_RETRY_S = 3600.0
USER_AGENT = "atelier-registry-api"
_PAGE_SIZE = 50


@dataclass(frozen=True)
class SubscriberProgress:
    """A subscriber, its position, and the number of events after it, wanted or not."""

    subscriber: Subscriber
    offset: WebhookOffset
    pending_events: int


class WebhookDispatcher:
    """One thread per subscriber.

    Args:
        subscribers: who receives events.
        outbox: the events.
        offsets: the subscribers' positions.
        locks: allow one process at a time per subscriber.
        poll_s: how late an event of another process is delivered; this process's own are delivered at once.
        first_retry_s: delay after the first failure; it doubles with each further one.
    """

    def __init__(
        self,
        subscribers: Sequence[Subscriber],
        outbox: Outbox,
        offsets: WebhookOffsets,
        locks: AliasLocks,
        *,
        poll_s: float = 1.0,
        first_retry_s: float = 1.0,
    ) -> None:
        self._subscribers = {subscriber.name: subscriber for subscriber in subscribers}
        self._outbox, self._offsets, self._locks = outbox, offsets, locks
        self._poll_s, self._first_retry_s = poll_s, first_retry_s
        self._stopping = False
        self._wake = {name: threading.Event() for name in self._subscribers}
        self._threads = [
            threading.Thread(target=self._run, args=[subscriber], name=f"webhook-{subscriber.name}", daemon=True)
            for subscriber in subscribers
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def notify(self) -> None:
        """There may be a new event. May be called from any thread."""
        for event in self._wake.values():
            event.set()

    def stop(self, timeout_s: float) -> None:
        """Stops after the deliveries that are running, or after `timeout_s`: those are repeated at the next start."""
        self._stopping = True
        self.notify()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def progress(self) -> list[SubscriberProgress]:
        """Of every subscriber.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        newest = self._outbox.last_id()
        progress = []
        for subscriber in self._subscribers.values():
            offset = self._offsets.find(subscriber.name) or WebhookOffset(subscriber.name, newest)
            progress.append(SubscriberProgress(subscriber, offset, newest - offset.event_id))
        return progress

    def ping(self, name: str) -> Delivery:
        """Delivers a message of the type `ping`, once.

        Raises:
            UnknownSubscriberError: no subscriber has this name.
        """
        if (subscriber := self._subscribers.get(name)) is None:
            raise UnknownSubscriberError(name, sorted(self._subscribers))
        now = datetime.now(UTC)
        return _post(subscriber, f"ping-{now.timestamp():.6f}", {"type": "ping", "timestamp": now.isoformat(), "data": {}})

    def deliver(self, subscriber: Subscriber) -> None:
        """Delivers pending events until there is none left, or one fails.

        Raises:
            RegistryApiError: the database does not answer, or another process delivers to this subscriber.
        """
        offset = self._offsets.find(subscriber.name)
        if offset is None:
            self._offsets.add(subscriber.name)
            return
        if not self._is_due(offset):
            return
        with self._locks.hold(f"subscriber:{subscriber.name}", "events"):  # a model's name contains no colon
            offset = self._offsets.find(subscriber.name) or offset
            while not self._stopping and self._is_due(offset):
                for row in self._outbox.events_after(offset.event_id, _PAGE_SIZE):
                    if self._stopping or not self._deliver_event(subscriber, offset, row):
                        return
                    offset = WebhookOffset(subscriber.name, row["id"])

    def _is_due(self, offset: WebhookOffset) -> bool:
        if offset.next_attempt_at is not None and datetime.now(UTC) < offset.next_attempt_at:
            return False
        return bool(self._outbox.events_after(offset.event_id, 1))

    def _deliver_event(self, subscriber: Subscriber, offset: WebhookOffset, row: dict[str, Any]) -> bool:
        """Whether the offset moved past the event."""
        name, event = read_event(row)
        if not subscriber.wants(event):
            self._offsets.advance(subscriber.name, event.id, delivered=False)
            return True
        content = {"type": name, "timestamp": event.at.isoformat(), "data": event.model_dump(mode="json")}
        delivery = _post(subscriber, f"event-{event.id}", content)
        if delivery.succeeded:
            if offset.failed_attempts:
                log.info("webhook delivery resumed", extra={"fields": {"subscriber": subscriber.name}})
            self._offsets.advance(subscriber.name, event.id, delivered=True)
            return True
        fields = {"subscriber": subscriber.name, "event": event.id, "reason": delivery.reason}
        if offset.failing_since is not None and _hours_since(offset.failing_since) >= subscriber.give_up_h:
            log.error("webhook delivery given up", extra={"fields": fields})
            self._offsets.advance(subscriber.name, event.id, delivered=False)
            return True
        if not offset.failed_attempts:
            log.warning("webhook delivery failed", extra={"fields": fields})
        delay_s = retry_delay_s(
            offset.failed_attempts + 1,
            first_s=self._first_retry_s,
            factor=2.0,
            longest_s=MAX_RETRY_S,
            requested_s=delivery.retry_after_s,
        )
        self._offsets.record_failure(offset, delivery.reason, delay_s)
        return False

    def _run(self, subscriber: Subscriber) -> None:
        logged, wake = False, self._wake[subscriber.name]
        while not self._stopping:
            wake.clear()
            try:
                self.deliver(subscriber)
                logged = False
            except AliasBusyError:
                pass  # another process delivers
            except RegistryApiError as error:
                if not logged:
                    fields = {"subscriber": subscriber.name, "reason": str(error)}
                    log.warning("webhook delivery delayed", extra={"fields": fields})
                logged = True
            except Exception:
                log.exception("webhook delivery to %s failed", subscriber.name)
            wake.wait(self._poll_s)


def _post(subscriber: Subscriber, message_id: str, content: dict[str, Any]) -> Delivery:
    try:
        key = read_secret(subscriber.secret_file)
    except ValueError as error:
        return Delivery(None, f"its secret_file {error}")
    body = hash_chain.canonical(content).encode()
    return deliver(subscriber.url, key, message_id, body, user_agent=USER_AGENT, timeout_s=subscriber.timeout_s)


def _hours_since(start: datetime) -> float:
    return (datetime.now(UTC) - start).total_seconds() / 3600
