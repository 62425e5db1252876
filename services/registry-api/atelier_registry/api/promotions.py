"""Endpoints that decide, and tell what was decided."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from atelier_contracts.identifiers import AliasName
from atelier_contracts.promotion import Decision, PromoteRequest, Reasoned, RollbackRequest
from atelier_contracts.tokens import Role
from fastapi import APIRouter, Body, Depends, Query, Response
from fastapi import Path as InPath

from atelier_registry.api import openapi_examples
from atelier_registry.api.auth import needs
from atelier_registry.api.caller import Caller, alias_etag, caller
from atelier_registry.api.catalogue import Name, Number
from atelier_registry.api.schemas import AliasState, DecisionPage
from atelier_registry.decisions.approvals import Approvals
from atelier_registry.decisions.promotions import Promotions
from atelier_registry.decisions.retirement import Retirement
from atelier_registry.errors import InvalidArgumentError, UnknownAliasError
from atelier_registry.models.cached_registry import CacheControl, CachedRegistry
from atelier_registry.models.catalogue import find_model
from atelier_registry.models.integrity_monitor import IntegrityMonitor
from atelier_registry.problems import documented
from atelier_registry.storage import hash_chain
from atelier_registry.storage.ledger import Ledger

Promoter = Annotated[Caller, Depends(caller(Role.promoter))]
Reader = Annotated[Caller, Depends(caller(Role.reader))]
Alias = Annotated[AliasName, InPath(description="name of an alias", examples=["champion"])]
DecisionId = Annotated[int, InPath(ge=1, lt=2**63, description="id of a decision", examples=[12])]
Reason = Annotated[Reasoned, Body(openapi_examples=openapi_examples.REASON)]
Outcomes = Literal["done", "refused", "proposed", "rejected", "pending", "failed"]

DECIDES = documented(400, 403, 404, 409, 412)


def promotion_router(
    recent: CachedRegistry,
    ledger: Ledger,
    integrity: IntegrityMonitor,
    promotions: Promotions,
    approvals: Approvals,
    retiring: Retirement,
) -> APIRouter:
    """The endpoints. They are plain functions, so that waiting for MLflow happens in worker threads."""
    router = APIRouter(tags=["promotion"])

    def answered(decision: Decision, response: Response) -> Decision:
        if decision.outcome == "proposed":
            response.status_code = 202
        elif decision.alias is not None and decision.outcome == "done":
            last = ledger.last_move(decision.model, decision.alias)
            response.headers["ETag"] = alias_etag(last, last.to_version if last else None) or '""'
        return decision

    @router.post(
        "/models/{name}/versions/{version}/promote",
        responses=DECIDES
        | {202: {"model": Decision, "description": "Proposed: waits for somebody else's approval"}}
        | openapi_examples.of(openapi_examples.DECISION),
    )
    def promote(
        name: Name,
        version: Number,
        request: Annotated[PromoteRequest, Body(openapi_examples=openapi_examples.PROMOTE)],
        caller: Promoter,
        response: Response,
    ) -> Decision:
        """Points an alias at this version, if the policy allows it. Asking for what is already so changes nothing."""
        return answered(promotions.promote(caller, name, version, request), response)

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
        """What the policy says of a promotion, rule by rule. The same as a dry run, for every role."""
        return promotions.verdict(caller.id, name, version, PromoteRequest(alias=alias, reason="asked only"))

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
        """Points an alias at the version before, or at a named one, once infer has shown that it loads."""
        return answered(promotions.roll_back(caller, name, request), response)

    @router.post(
        "/models/{name}/versions/{version}/retire",
        responses=DECIDES
        | openapi_examples.of(openapi_examples.DECISION | {"action": "retire", "alias": None, "from_version": None}),
    )
    def retire(name: Name, version: Number, request: Reason, caller: Promoter) -> Decision:
        """Takes a version out of use: no alias may point at it from now on."""
        return retiring.retire(caller, name, version, request.reason)

    @router.get(
        "/decisions/{id}",
        dependencies=[Depends(needs(Role.reader))],
        responses=documented(404) | openapi_examples.of(openapi_examples.DECISION),
    )
    def get_decision(id: DecisionId) -> Decision:
        """One decision, with what every rule saw."""
        return approvals.find(id)

    @router.post(
        "/decisions/{id}/approve", responses=DECIDES | openapi_examples.of(openapi_examples.DECISION | {"approved_by": "ada"})
    )
    def approve(id: DecisionId, request: Reason, caller: Promoter, response: Response) -> Decision:
        """Carries out what somebody else proposed, if the rules still hold."""
        return answered(approvals.approve(caller, id, request.reason), response)

    @router.post(
        "/decisions/{id}/reject",
        responses=DECIDES | openapi_examples.of(openapi_examples.DECISION | {"outcome": "rejected", "done_at": None}),
    )
    def reject(id: DecisionId, request: Reason, caller: Promoter) -> Decision:
        """Ends a proposal without carrying it out."""
        return approvals.reject(caller, id, request.reason)

    @router.get(
        "/models/{name}/aliases/{alias}",
        dependencies=[Depends(needs(Role.reader))],
        responses=documented(404) | openapi_examples.of(openapi_examples.ALIAS),
    )
    def get_alias(
        name: Name,
        alias: Alias,
        response: Response,
        at: Annotated[
            datetime | None, Query(description="where it pointed then, such as 2026-03-01T12:00:00Z; now when absent")
        ] = None,
        cache_control: CacheControl = None,
    ) -> AliasState:
        """Where an alias points, or pointed at a time, and the decision that made it so. Its ETag goes into If-Match."""
        if at is not None:
            if at.tzinfo is None:
                raise InvalidArgumentError(f"at must say its time zone, such as {at.isoformat()}Z; received {at.isoformat()}")
            then = ledger.last_move(name, alias, at)
            if then is None or then.to_version is None:
                find_model(recent, name)
                raise UnknownAliasError(f"{name}, at {hash_chain.timestamp(at)},", alias, [])
            return AliasState(
                model=name, alias=alias, version=then.to_version, since=datetime.fromisoformat(then.at), decision=then.decision
            )
        model = find_model(recent.reader(cache_control), name)
        if (present := model.aliases.get(alias)) is None:
            raise UnknownAliasError(name, alias, list(model.aliases))
        last = ledger.last_move(name, alias)
        response.headers["ETag"] = alias_etag(last, present) or ""
        ours = last if last and last.to_version == present else None
        return AliasState(
            model=name,
            alias=alias,
            version=present,
            since=datetime.fromisoformat(ours.at) if ours else None,
            decision=ours.decision if ours else None,
            adapter_digest=ledger.decision(ours.decision).adapter_digest if ours else None,
            problem=integrity.problem(name, present),
        )

    @router.get(
        "/models/{name}/history",
        dependencies=[Depends(needs(Role.reader))],
        responses=documented(404) | openapi_examples.of({"decisions": [openapi_examples.DECISION], "next_before_id": None}),
    )
    def history(
        name: Name,
        alias: Annotated[AliasName | None, Query(description="of this alias only")] = None,
        outcome: Annotated[Outcomes | None, Query(description="of this outcome only")] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="entries on a page")] = 50,
        before_id: Annotated[int | None, Query(ge=1, lt=2**63, description="next_before_id of the page before")] = None,
    ) -> DecisionPage:
        """Decisions on a model, newest first, refusals too. Those on a model that was deleted since are still told."""
        found = ledger.page(name, alias, outcome=outcome, limit=limit + 1, before_id=before_id)
        if not found and not ledger.page(name, limit=1):
            find_model(recent, name)
        shown = found[:limit]
        return DecisionPage(decisions=shown, next_before_id=shown[-1].id if len(found) > limit else None)

    return router
