"""Endpoints about subscribers: how far they are, and whether they take a message now."""

from __future__ import annotations

from typing import Annotated

from atelier_contracts.tokens import Role
from fastapi import APIRouter, Depends, Path

from atelier_registry.api import openapi_examples
from atelier_registry.api.auth import needs
from atelier_registry.api.schemas import Pinged, SubscriberStates
from atelier_registry.events.webhooks.dispatcher import WebhookDispatcher
from atelier_registry.problems import documented


def subscriber_router(push: WebhookDispatcher) -> APIRouter:
    """The endpoints."""
    router = APIRouter(prefix="/subscribers", tags=["events"], dependencies=[Depends(needs(Role.admin))])

    @router.get("", responses=documented(403) | openapi_examples.of({"subscribers": [openapi_examples.SUBSCRIBER]}))
    def list_subscribers() -> SubscriberStates:
        """Who is told of moved aliases, and how far each is."""
        return SubscriberStates(subscribers=push.states())

    @router.post("/{name}/ping", responses=documented(403, 404) | openapi_examples.of({"taken": True, "problem": None}))
    def ping_subscriber(
        name: Annotated[str, Path(min_length=1, max_length=64, description="name of a subscriber", examples=["ci"])],
    ) -> Pinged:
        """Posts a signed message of the type `ping` now, once."""
        refusal = push.ping(name)
        return Pinged(taken=refusal is None, problem=refusal.reason if refusal else None)

    return router
