"""Endpoints that move aliases, and tell how they were moved."""

from __future__ import annotations

from typing import Annotated

from atelier_contracts.access import Role, Token
from atelier_contracts.promotion import Decision, PromoteRequest, RollbackRequest
from fastapi import APIRouter, Body, Depends, Query

from atelier_registry import examples
from atelier_registry.access import needs
from atelier_registry.answers import DecisionPage
from atelier_registry.catalogue import find_model
from atelier_registry.catalogue_routes import Name, Number
from atelier_registry.decisions import DecisionLog
from atelier_registry.problems import documented
from atelier_registry.promotions import Promotions
from atelier_registry.registry import ModelRegistry

Promoter = Annotated[Token, Depends(needs(Role.promoter))]


def promotion_router(promotions: Promotions, registry: ModelRegistry, decisions: DecisionLog) -> APIRouter:
    """The deciding endpoints. They are plain functions, so that waiting for MLflow happens in worker threads."""
    router = APIRouter(prefix="/models/{name}", tags=["promotion"])

    @router.post("/versions/{version}/promote", responses=documented(403, 404, 409) | examples.of(examples.DECISION))
    def promote(
        name: Name,
        version: Number,
        request: Annotated[PromoteRequest, Body(openapi_examples=examples.PROMOTE)],
        caller: Promoter,
    ) -> Decision:
        """Points an alias at this version. Asking for what is already so changes nothing."""
        return promotions.promote(caller.id, name, version, request)

    @router.post(
        "/rollback",
        responses=documented(403, 404, 409)
        | examples.of(examples.DECISION | {"id": 13, "action": "rollback", "from_version": 4, "to_version": 3}),
    )
    def roll_back(
        name: Name, request: Annotated[RollbackRequest, Body(openapi_examples=examples.ROLL_BACK)], caller: Promoter
    ) -> Decision:
        """Points an alias at the version that it pointed to before, or at a named one. Twice goes further back."""
        return promotions.roll_back(caller.id, name, request)

    @router.get(
        "/history",
        dependencies=[Depends(needs(Role.reader))],
        responses=documented(404) | examples.of({"decisions": [examples.DECISION], "next_before_id": None}),
    )
    def history(
        name: Name,
        alias: Annotated[str | None, Query(max_length=255, description="of this alias only")] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="entries on a page")] = 50,
        before_id: Annotated[int | None, Query(ge=1, lt=2**63, description="next_before_id of the page before")] = None,
    ) -> DecisionPage:
        """Decisions on a model's aliases, newest first. Those on a model that was deleted since are still told."""
        found = decisions.page(name, alias, limit=limit + 1, before_id=before_id)
        if not found and not decisions.page(name, limit=1):
            find_model(registry, name)
        shown = found[:limit]
        return DecisionPage(decisions=shown, next_before_id=shown[-1].id if len(found) > limit else None)

    return router
