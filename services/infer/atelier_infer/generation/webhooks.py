"""Callbacks: when a job has ended, its state is posted to the address that it came with, signed, and again until it arrives.

Source: Standard Webhooks 1.0.0, for headers, signature, and an id that stays while the timestamp is that of the try.
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

from atelier_contracts.generate import CallbackStatus

from atelier_infer.client import callback_signature
from atelier_infer.generation.webhook_hosts import Place, WebhookTarget, find_target

log = logging.getLogger(__name__)

TRIES = 6
FIRST_RETRY_S, SLOWEST_RETRY_S = 1.0, 256.0
"""After a failed try 1 s, 4 s, 16 s, … pass, less up to half by chance: six minutes in all, so that the outcome is known while
the job can still be asked for."""

TIMEOUT_S = 10.0
"""Longest silence of a receiver."""

LIMIT = 256
"""So many callbacks may wait; one more is given up at once."""

THREADS = 4
"""A receiver that does not answer holds one of them for TIMEOUT_S."""

LAST_TRY_S = 2.0
"""For the last tries where nothing of the drain time is left, since jobs that it ended have to be told of, too."""


@dataclass(eq=False)
class Webhook:
    """One job's."""

    target: WebhookTarget
    id: str
    body: bytes = b""
    state: Literal["waiting", "delivered", "given_up"] = "waiting"
    tries: int = 0
    problem: str | None = None

    def status(self) -> CallbackStatus:
        """As it is told."""
        return CallbackStatus(state=self.state, tries=self.tries, problem=self.problem)


@dataclass(frozen=True)
class Answer:
    """What came of a try: `status` of HTTP, none without an answer."""

    status: int | None
    told: str
    after_s: float = 0.0

    @property
    def delivered(self) -> bool:
        """Whether the receiver took it."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def passing(self) -> bool:
        """Whether another try may succeed."""
        return self.status is None or self.status == 429 or self.status >= 500


class WebhookSender:
    """Threads that send, and the queue before them. Nothing is kept over a restart.

    Args:
        hosts: where callbacks may go; nothing runs when it is empty.
        key: what they are signed with.
        told: told of each callback that was delivered or given up.
    """

    def __init__(self, *, hosts: frozenset[Place], key: bytes, told: Callable[[str], None] = lambda outcome: None) -> None:
        self._hosts, self._key, self._told = hosts, key, told
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Webhook]] = []
        self._order = itertools.count()
        self._deadline = math.inf
        count = THREADS if hosts else 0
        self._threads = [threading.Thread(target=self._work, name=f"callbacks-{n}", daemon=True) for n in range(count)]

    @property
    def waiting(self) -> int:
        """Callbacks that wait for their first or next try."""
        return len(self._due)

    def target(self, url: str) -> WebhookTarget:
        """What a callback_url leads to.

        Raises:
            CallbackError: it is no address of a listed host.
        """
        return find_target(url, self._hosts)

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, by: float) -> None:
        """Gives every callback that waits one last try at once, and ends the threads.

        Args:
            by: of `time.monotonic`: nothing is waited for longer, or than LAST_TRY_S from now where that is later.
        """
        with self._changed:
            self._deadline = max(by, time.monotonic() + LAST_TRY_S)
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, self._deadline - time.monotonic()))
        with self._changed:
            left, self._due = [callback for _, _, callback in self._due], []
        for callback in left:
            self._give_up(callback, "the service ended")

    def send(self, callback: Webhook, body: bytes) -> None:
        """Puts it into the queue; returns at once."""
        callback.body = body
        if not self._wait(callback, 0.0):
            self._give_up(callback, f"{LIMIT} callbacks wait already")

    def _wait(self, callback: Webhook, delay_s: float) -> bool:
        with self._changed:
            if len(self._due) >= LIMIT:
                return False
            heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._order), callback))
            self._changed.notify()
        return True

    def _work(self) -> None:
        while callback := self._next():
            try:
                self._try(callback)
            except Exception:  # the thread is needed by the others
                log.exception("a callback failed oddly")
                self._give_up(callback, "an error that nobody foresaw; the service's log holds it")

    def _next(self) -> Webhook | None:
        """Waits for one that is due; none once the service ends and nothing waits."""
        with self._changed:
            while True:
                now, stopping = time.monotonic(), self._deadline < math.inf
                if stopping and (not self._due or now >= self._deadline):
                    return None
                if self._due and (stopping or self._due[0][0] <= now):
                    return heapq.heappop(self._due)[2]
                self._changed.wait(self._due[0][0] - now if self._due else None)

    def _try(self, callback: Webhook) -> None:
        callback.tries += 1
        answer = self._post(callback)
        if answer.delivered:
            callback.problem = None
            callback.state = "delivered"  # the last thing: others read both
            self._told("delivered")
            return
        callback.problem = answer.told
        delay_s = max(backoff_s(callback.tries), min(answer.after_s, SLOWEST_RETRY_S))
        again = answer.passing and callback.tries < TRIES and self._deadline == math.inf
        if not (again and self._wait(callback, delay_s)):
            self._give_up(callback, answer.told)

    def _post(self, callback: Webhook) -> Answer:
        (scheme, host, port), path, _ = callback.target
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "atelier-infer",
            "webhook-id": callback.id,
            "webhook-timestamp": timestamp,
            "webhook-signature": callback_signature(self._key, callback.id, timestamp, callback.body),
        }
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        line = kind(host, port, timeout=max(0.1, min(TIMEOUT_S, self._deadline - time.monotonic())))
        try:
            line.request("POST", path, callback.body, headers)
            answer = line.getresponse()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            return Answer(None, f"no answer: {type(error).__name__}: {error}"[:300])
        finally:
            line.close()
        told = f"answered {answer.status}" + ("; a redirect is not followed" if 300 <= answer.status < 400 else "")
        after = answer.getheader("Retry-After", "")
        return Answer(answer.status, told, float(after) if after.isdecimal() else 0.0)

    def _give_up(self, callback: Webhook, problem: str) -> None:
        callback.problem = problem
        callback.state = "given_up"
        fields = {"callback": callback.id, "host": callback.target.place.host, "tries": callback.tries, "reason": problem}
        log.warning("callback given up", extra={"fields": fields})  # never the path, which may hold a secret
        self._told("given_up")


def backoff_s(tries: int) -> float:
    """How long to wait after so many failed tries: less up to half by chance, so that receivers are not met by all at once."""
    chance = random.uniform(0.5, 1.0)  # noqa: S311  nothing is secret about it
    return min(SLOWEST_RETRY_S, FIRST_RETRY_S * 4.0 ** (tries - 1)) * chance
