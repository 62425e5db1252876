"""Endpoints that decide on aliases and versions, and the history of decisions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from atelier_contracts.identifiers import AliasName
from atelier_contracts.promotion import Decision, PromoteRequest, ReasonedRequest, RollbackRequest
from atelier_contracts.tokens import Role
from atelier_service.auth import require_role
from fastapi import APIRouter, Body, Depends, Query, Response
from fastapi import Path as InPath

from atelier_registry.api import openapi_examples
from atelier_registry.api.caller import caller
from atelier_registry.api.catalogue import CacheControl, Name, Number
from atelier_registry.api.schemas import AliasState, DecisionPage
from atelier_registry.decisions.approvals import Approvals
from atelier_registry.decisions.caller import Caller, alias_etag
from atelier_registry.decisions.promotions import Promotions
from atelier_registry.decisions.retirement import Retirement
from atelier_registry.errors import InvalidArgumentError, UnknownAliasError
from atelier_registry.models.cached_registry import CachedRegistry
from atelier_registry.models.catalogue import find_model
from atelier_registry.models.integrity_monitor import IntegrityMonitor
from atelier_registry.problems import documented
from atelier_registry.storage import hash_chain
from atelier_registry.storage.ledger import Ledger

Promoter = Annotated[Caller, Depends(caller(Role.promoter))]
Reader = Annotated[Caller, Depends(caller(Role.reader))]
Alias = Annotated[AliasName, InPath(description="name of an alias", examples=["champion"])]
DecisionId = Annotated[int, InPath(ge=1, lt=2**63, description="id of a decision", examples=[12])]
Reason = Annotated[ReasonedRequest, Body(openapi_examples=openapi_examples.REASON)]
Outcomes = Literal["done", "refused", "proposed", "rejected", "pending", "failed"]

DECIDES = documented(400, 403, 404, 409, 412)


def decision_router(promotions: Promotions, approvals: Approvals, retirement: Retirement, ledger: Ledger) -> APIRouter:
    """Endpoints are plain functions, so that they wait for MLflow in worker threads."""
    router = APIRouter(tags=["promotion"])

    def with_status(decision: Decision, response: Response) -> Decision:
        if decision.outcome == "proposed":
            response.status_code = 202
        elif decision.alias is not None and decision.outcome == "done":
            last = ledger.alias_moves.last(decision.model, decision.alias)
            response.headers["ETag"] = alias_etag(last, last.to_version if last else None) or '""'
        return decision

    @router.post(
        "/models/{name}/versions/{version}/promote",
        responses=DECIDES
        | {202: {"model": Decision, "description": "Proposed: somebody else must approve"}}
        | openapi_examples.of(openapi_examples.DECISION),
    )
    def promote(
        name: Name,
        version: Number,
        request: Annotated[PromoteRequest, Body(openapi_examples=openapi_examples.PROMOTE)],
        caller: Promoter,
        response: Response,
    ) -> Decision:
        """Points an alias at this version, if the policy allows it. Repeating a promotion changes nothing."""
        return with_status(promotions.promote(caller, name, version, request), response)

    @router.get(
        "/models/{name}/versions/{version}/verdict",
        responses=documented(404)
        | openapi_examples.of(openapi_examples.DECISION | {"id": 0, "outcome": "dry_run", "done_at": None}),
    )
    def verdict(
        name: Name,
        version: Number,
        caller: Reader,
        alias: Annotated[str, Query(pattern=r"^[a-z][a-z0-9_-]{0,62}$", description="which alias")] = "champion",
    ) -> Decision:
        """Verdicts of the policy's rules on a promotion: a dry run, for every role."""
        return promotions.verdict(caller, name, version, PromoteRequest(alias=alias, reason="verdict only"))

    @router.post(
        "/models/{name}/rollback",
        responses=DECIDES
        | openapi_examples.of(openapi_examples.DECISION | {"id": 13, "action": "rollback", "from_version": 4, "to_version": 3}),
    )
    def roll_back(
        name: Name,
        request: Annotated[RollbackRequest, Body(openapi_examples=openapi_examples.ROLL_BACK)],
        caller: Promoter,
        response: Response,
    ) -> Decision:
        """Points an alias at its previous version, or at a named earlier one, if infer can load it."""
        return with_status(promotions.roll_back(caller, name, request), response)

    @router.post(
        "/models/{name}/versions/{version}/retire",
        responses=DECIDES
        | openapi_examples.of(openapi_examples.DECISION | {"action": "retire", "alias": None, "from_version": None}),
    )
    def retire(name: Name, version: Number, request: Reason, caller: Promoter) -> Decision:
        """Retires a version: no alias may point at it from now on."""
        return retirement.retire(caller, name, version, request.reason)

    @router.get(
        "/decisions/{id}",
        dependencies=[Depends(require_role(Role.reader))],
        responses=documented(404) | openapi_examples.of(openapi_examples.DECISION),
    )
    def get_decision(id: DecisionId) -> Decision:
        """A decision, with the verdict of every rule."""
        return approvals.find(id)

    @router.post(
        "/decisions/{id}/approve", responses=DECIDES | openapi_examples.of(openapi_examples.DECISION | {"approved_by": "ada"})
    )
    def approve(id: DecisionId, request: Reason, caller: Promoter, response: Response) -> Decision:
        """Carries out what somebody else proposed, if every rule still passes."""
        return with_status(approvals.approve(caller, id, request.reason), response)

    @router.post(
        "/decisions/{id}/reject",
        responses=DECIDES | openapi_examples.of(openapi_examples.DECISION | {"outcome": "rejected", "done_at": None}),
    )
    def reject(id: DecisionId, request: Reason, caller: Promoter) -> Decision:
        """Ends a proposal without carrying it out."""
        return approvals.reject(caller, id, request.reason)

    return router


def history_router(registry: CachedRegistry, ledger: Ledger, integrity: IntegrityMonitor) -> APIRouter:
    """Endpoints about aliases and past decisions."""
    router = APIRouter(tags=["promotion"], dependencies=[Depends(require_role(Role.reader))])

    @router.get(
        "/models/{name}/aliases/{alias}",
        responses=documented(404) | openapi_examples.of(openapi_examples.ALIAS),
    )
    def get_alias(
        name: Name,
        alias: Alias,
        response: Response,
        at: Annotated[datetime | None, Query(description="a past time, such as 2026-03-01T12:00:00Z; now if absent")] = None,
        cache_control: CacheControl = None,
    ) -> AliasState:
        """The version that an alias points or pointed at, and the decision behind it. Its ETag is for If-Match."""
        if at is not None:
            if at.tzinfo is None:
                raise InvalidArgumentError(f"at must include a time zone, such as {at.isoformat()}Z; received {at.isoformat()}")
            move = ledger.alias_moves.last(name, alias, at)
            if move is None or move.to_version is None:
                find_model(registry, name)
                raise UnknownAliasError(f"{name}, at {hash_chain.timestamp(at)},", alias, [])
            return AliasState(
                model=name, alias=alias, version=move.to_version, since=datetime.fromisoformat(move.at), decision=move.decision
            )
        model = find_model(registry.reader(cache_control), name)
        if (current := model.aliases.get(alias)) is None:
            raise UnknownAliasError(name, alias, list(model.aliases))
        last = ledger.alias_moves.last(name, alias)
        response.headers["ETag"] = alias_etag(last, current) or ""
        recorded = last if last and last.to_version == current else None
        return AliasState(
            model=name,
            alias=alias,
            version=current,
            since=datetime.fromisoformat(recorded.at) if recorded else None,
            decision=recorded.decision if recorded else None,
            adapter_digest=ledger.decision(recorded.decision).adapter_digest if recorded else None,
            problem=integrity.problem(name, current),
        )

    @router.get(
        "/models/{name}/history",
        responses=documented(404) | openapi_examples.of({"decisions": [openapi_examples.DECISION], "next_before_id": None}),
    )
    def get_history(
        name: Name,
        alias: Annotated[AliasName | None, Query(description="of this alias only")] = None,
        outcome: Annotated[Outcomes | None, Query(description="of this outcome only")] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="entries on a page")] = 50,
        before_id: Annotated[int | None, Query(ge=1, lt=2**63, description="next_before_id of the previous page")] = None,
    ) -> DecisionPage:
        """Decisions on a model, newest first, including refusals. They remain when the model is deleted."""
        decisions = ledger.page(name, alias, outcome=outcome, limit=limit + 1, before_id=before_id)
        if not decisions and not ledger.page(name, limit=1):
            find_model(registry, name)
        page = decisions[:limit]
        return DecisionPage(decisions=page, next_before_id=page[-1].id if len(decisions) > limit else None)

    return router
