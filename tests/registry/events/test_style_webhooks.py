"""An edited style, posted to subscribers."""

from __future__ import annotations

import json
from collections.abc import Callable

from atelier_registry.config.subscribers import Subscriber
from atelier_registry.events.webhooks.dispatcher import WebhookDispatcher
from atelier_registry.events.webhooks.offsets import WebhookOffsets
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import AliasLocks

from ..conftest import Api
from ..fake_registry import FakeRegistry
from ..webhook_receiver import Receiver
from .test_webhook_dispatcher import until


def test_an_edited_style_is_delivered_to_who_wants_more_than_aliases(
    start: Callable[..., Api],
    fake: FakeRegistry,
    adapters: str,
    ledger: Ledger,
    offsets: WebhookOffsets,
    locks: AliasLocks,
    subscriber: Callable[..., Subscriber],
    receiver: Receiver,
) -> None:
    dispatcher = WebhookDispatcher(
        [subscriber(), subscriber(name="aliases", aliases=["champion"])], ledger.outbox, offsets, locks
    )
    api = start(fake, webhooks=dispatcher)
    until(lambda: offsets.find("ci") and offsets.find("aliases"))
    decision = api.edit_style(adapters, {"title": "Brush", "recommended": {"steps": 12}}).json()
    until(lambda: offsets.find("ci").last_delivered_at and offsets.find("aliases").event_id == offsets.find("ci").event_id)
    [(_, body)] = receiver.got
    told = json.loads(body)
    assert (told["type"], told["data"]["model"], told["data"]["decision"]) == ("style.edited", adapters, decision["id"])
    assert (told["data"]["edits"]["title"], told["data"]["edits"]["recommended"]["steps"]) == ("Brush", 12)
    assert told["data"]["chain_hash"] == decision["chain_hash"]
