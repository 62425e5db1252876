"""Subscribers with a real receiver, and dispatchers of webhooks."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from atelier_registry.config.subscribers import Subscriber
from atelier_registry.events.webhooks.dispatcher import WebhookDispatcher
from atelier_registry.events.webhooks.offsets import WebhookOffsets
from atelier_registry.storage.entries import DecisionFacts
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import AliasLocks
from sqlalchemy import Engine

from ..webhook_receiver import Receiver, receiving

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def subscriber(tmp_path: Path, receiver: Receiver) -> Callable[..., Subscriber]:
    """A factory: fields by keyword."""

    def made(**fields: Any) -> Subscriber:
        file = tmp_path / "secret"
        file.write_text(f"{SECRET}\n")
        return Subscriber.model_validate({"name": "ci", "url": receiver.url, "secret_file": file} | fields)

    return made


@pytest.fixture
def offsets(engine: Engine) -> WebhookOffsets:
    return WebhookOffsets(engine)


@pytest.fixture
def make_dispatcher(ledger: Ledger, offsets: WebhookOffsets, locks: AliasLocks) -> Callable[..., WebhookDispatcher]:
    """A factory of what posts, not started: `deliver` is called by the test."""

    def made(*subscribers: Subscriber, first_retry_s: float = 1.0) -> WebhookDispatcher:
        dispatcher = WebhookDispatcher(subscribers, ledger.outbox, offsets, locks, first_retry_s=first_retry_s)
        for each in subscribers:
            dispatcher.deliver(each)  # enters it, after the newest event
        return dispatcher

    return made


@pytest.fixture
def move(ledger: Ledger) -> Callable[..., None]:
    """Writes an event."""

    def moved(number: int, model: str = "pencil", alias: str = "champion") -> None:
        ledger.open("outside", DecisionFacts("outside", "outside", model, alias, None, number, "moved"))

    return moved
