"""Endpoints about subscribers: their positions in the events, and a test message."""

from __future__ import annotations

from typing import Annotated

from atelier_contracts.tokens import Role
from atelier_service.auth import require_role
from fastapi import APIRouter, Depends, Path

from atelier_registry.api import openapi_examples
from atelier_registry.api.schemas import PingResult, SubscriberState, SubscriberStates
from atelier_registry.events.webhooks.dispatcher import SubscriberProgress, WebhookDispatcher
from atelier_registry.problems import documented


def subscriber_router(webhooks: WebhookDispatcher) -> APIRouter:
    router = APIRouter(prefix="/subscribers", tags=["events"], dependencies=[Depends(require_role(Role.admin))])

    @router.get("", responses=documented(403) | openapi_examples.of({"subscribers": [openapi_examples.SUBSCRIBER]}))
    def list_subscribers() -> SubscriberStates:
        """Subscribers, and each one's position in the events."""
        return SubscriberStates(subscribers=[_state(progress) for progress in webhooks.progress()])

    @router.post("/{name}/ping", responses=documented(403, 404) | openapi_examples.of({"delivered": True, "problem": None}))
    def ping_subscriber(
        name: Annotated[str, Path(min_length=1, max_length=64, description="name of a subscriber", examples=["ci"])],
    ) -> PingResult:
        """Delivers a signed message of the type `ping`, once."""
        delivery = webhooks.ping(name)
        return PingResult(delivered=delivery.succeeded, problem=delivery.reason or None)

    return router


def _state(progress: SubscriberProgress) -> SubscriberState:
    subscriber, offset = progress.subscriber, progress.offset
    return SubscriberState(
        name=subscriber.name,
        url=subscriber.url.partition("?")[0],
        models=subscriber.models,
        aliases=subscriber.aliases,
        last_event_id=offset.event_id,
        pending_events=progress.pending_events,
        failed_attempts=offset.failed_attempts,
        problem=offset.problem,
        next_attempt_at=offset.next_attempt_at,
        last_delivered_at=offset.last_delivered_at,
    )
