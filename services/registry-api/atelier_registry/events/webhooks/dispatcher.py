"""Events to subscribers outside: in order, at least once, tried again with growing pauses.

An event's place is moved on after the subscriber took it, so a process that dies in between posts it once more, with the same
`webhook-id`. Of several processes of this service one at a time posts to a subscriber.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from atelier_contracts.events import AliasMoved

from atelier_registry.api.schemas import SubscriberState
from atelier_registry.config.subscribers import Subscriber
from atelier_registry.errors import AliasBusyError, RegistryApiError, UnknownSubscriberError
from atelier_registry.events.webhooks.delivery import DeliveryRefusal, post
from atelier_registry.events.webhooks.offsets import WebhookOffset, WebhookOffsets
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import AliasLocks

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How late an event of another process is posted; those of this one are posted at once."""

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 3600.0
_PAGE = 50


class WebhookDispatcher:
    """A thread for each subscriber.

    Args:
        subscribers: who is told.
        ledger: where the events are.
        places: how far each is.
        locks: one process at a time.
    """

    def __init__(self, subscribers: Sequence[Subscriber], ledger: Ledger, places: WebhookOffsets, locks: AliasLocks) -> None:
        self._subscribers = {each.name: each for each in subscribers}
        self._ledger, self._places, self._locks = ledger, places, locks
        self._stopping = False
        self._nudges = {name: threading.Event() for name in self._subscribers}
        self._threads = [
            threading.Thread(target=self._follow, args=[each], name=f"push-{each.name}", daemon=True) for each in subscribers
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def nudge(self) -> None:
        """There may be a new event. From any thread."""
        for event in self._nudges.values():
            event.set()

    def stop(self, patience_s: float) -> None:
        """Ends after the posts that are under way, or after `patience_s` in spite of them: they are made again."""
        self._stopping = True
        self.nudge()
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def states(self) -> list[SubscriberState]:
        """How far everybody is.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        newest = self._ledger.last_event()
        return [
            self._state(each, self._places.find(each.name) or WebhookOffset(each.name, newest), newest)
            for each in self._subscribers.values()
        ]

    def ping(self, name: str) -> DeliveryRefusal | None:
        """Posts a message that is no event, once; None where it was taken.

        Raises:
            UnknownSubscriberError: there is nobody of this name.
        """
        if (subscriber := self._subscribers.get(name)) is None:
            raise UnknownSubscriberError(name, sorted(self._subscribers))
        now = datetime.now(UTC)
        return post(subscriber, f"ping-{now.timestamp():.6f}", {"type": "ping", "timestamp": now.isoformat(), "data": {}})

    def deliver(self, subscriber: Subscriber) -> None:
        """Posts what waits, until it is refused or nothing waits any more.

        Raises:
            RegistryApiError: the database does not answer, or another process is posting.
        """
        place = self._places.find(subscriber.name)
        if place is None:
            self._places.enter(subscriber.name)
            return
        if not self._ready(place):
            return
        with self._locks.alone(f"subscriber:{subscriber.name}", "events"):  # no model can be called so
            place = self._places.find(subscriber.name) or place
            while not self._stopping and self._ready(place):
                for row in self._ledger.events(place.event, _PAGE):
                    if self._stopping or not self._passed(subscriber, place, AliasMoved.model_validate(row)):
                        return
                    place = WebhookOffset(subscriber.name, row["id"])

    def _ready(self, place: WebhookOffset) -> bool:
        if place.next_try is not None and datetime.now(UTC) < place.next_try:
            return False
        return bool(self._ledger.events(place.event, 1))

    def _passed(self, subscriber: Subscriber, place: WebhookOffset, event: AliasMoved) -> bool:
        """Whether the event is behind the subscriber now."""
        if not subscriber.wants(event):
            self._places.passed(subscriber.name, event.id, taken=False)
            return True
        content = {"type": "alias.moved", "timestamp": event.at.isoformat(), "data": event.model_dump(mode="json")}
        refusal = post(subscriber, f"event-{event.id}", content)
        if refusal is None:
            if place.tries:
                log.info("subscriber %s takes events again", subscriber.name)
            self._places.passed(subscriber.name, event.id, taken=True)
            return True
        if place.refused_since is not None and _hours_since(place.refused_since) >= subscriber.give_up_h:
            log.error("event %d was not posted to subscriber %s, which %s", event.id, subscriber.name, refusal.reason)
            self._places.passed(subscriber.name, event.id, taken=False)
            return True
        if not place.tries:
            log.warning("events wait for subscriber %s: it %s", subscriber.name, refusal.reason)
        self._places.refused(place, refusal.reason, wait_s(place.tries, refusal.retry_after_s))
        return False

    def _state(self, subscriber: Subscriber, place: WebhookOffset, newest: int) -> SubscriberState:
        return SubscriberState(
            name=subscriber.name,
            url=subscriber.url.partition("?")[0],
            models=subscriber.models,
            aliases=subscriber.aliases,
            last_event=place.event,
            waiting=newest - place.event,
            tries=place.tries,
            problem=place.problem,
            next_try_at=place.next_try,
            taken_at=place.taken_at,
        )

    def _follow(self, subscriber: Subscriber) -> None:
        told, nudge = False, self._nudges[subscriber.name]
        while not self._stopping:
            nudge.clear()
            try:
                self.deliver(subscriber)
                told = False
            except AliasBusyError:
                pass  # another process posts
            except RegistryApiError as error:
                if not told:
                    log.warning("events wait for subscriber %s: %s", subscriber.name, error)
                told = True
            except Exception:
                log.exception("posting to subscriber %s failed", subscriber.name)
            nudge.wait(LOOK_S)


def wait_s(tries: int, asked_s: float) -> float:
    """The pause after a refusal: twice as long each time, an hour at most, a quarter of it by chance; or what was asked for.

    Args:
        tries: refusals of the same event before this one.
        asked_s: the answer's Retry-After.
    """
    grown = min(FIRST_WAIT_S * 2.0 ** min(tries, 30), LONGEST_WAIT_S)
    return max(grown * random.uniform(0.75, 1.0), min(asked_s, LONGEST_WAIT_S))  # noqa: S311  to spread load


def _hours_since(then: datetime) -> float:
    return (datetime.now(UTC) - then).total_seconds() / 3600
