"""The one place where an error of this service becomes a problem type."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from atelier_contracts.promotion import RefusedProblem
from atelier_service import problems
from atelier_service.auth import ROLE_TOO_LOW
from atelier_service.problems import INVALID_REQUEST, ProblemTable, ProblemType

from atelier_registry import errors

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5

POLICY_REFUSED = ProblemType("policy-refused", 409, "A rule of the policy did not pass; `verdicts` holds all of them.")

TYPES: dict[type[errors.RegistryApiError], ProblemType] = {
    errors.RoleTooLowError: ROLE_TOO_LOW,
    errors.SelfApprovalError: ProblemType("self-approval", 403, "The proposer of a decision may not approve it."),
    errors.UnknownModelError: ProblemType("unknown-model", 404, "The service has no model of this name."),
    errors.UnknownVersionError: ProblemType("unknown-version", 404, "The registered model has no such version."),
    errors.UnknownAliasError: ProblemType("unknown-alias", 404, "The registered model has no such alias."),
    errors.UnknownDecisionError: ProblemType("unknown-decision", 404, "No decision has this id."),
    errors.UnknownImageError: ProblemType("unknown-image", 404, "The version's run has no such image or metric."),
    errors.UnknownSubscriberError: ProblemType("unknown-subscriber", 404, "No subscriber has this name."),
    errors.InvalidArgumentError: INVALID_REQUEST,
    errors.PolicyRefusedError: POLICY_REFUSED,
    errors.NoEarlierVersionError: ProblemType("no-earlier-version", 409, "The alias has no earlier version to roll back to."),
    errors.NotProposedError: ProblemType("not-proposed", 409, "The decision is not waiting for approval."),
    errors.AliasedError: ProblemType("version-has-alias", 409, "An alias points at the version to be retired."),
    errors.PreconditionError: ProblemType("precondition-failed", 412, "If-Match or If-None-Match does not hold."),
    errors.KeyReusedError: ProblemType("idempotency-key-reused", 422, "The idempotency key came with another request."),
    errors.UnreadableFileError: ProblemType("unreadable-files", 409, "A version's files cannot be read, or are too large."),
    errors.StageRefusedError: ProblemType("stage-refused", 409, "infer loaded the version, and it failed a check."),
    errors.StageUnavailableError: ProblemType("infer-unavailable", 503, "infer does not answer, or is not configured."),
    errors.StageBusyError: ProblemType("infer-busy", 503, "The limit of concurrent requests to infer is reached."),
    errors.TrackingUnavailableError: ProblemType("tracking-unavailable", 503, "The tracking server does not answer."),
    errors.DatabaseUnavailableError: ProblemType("database-unavailable", 503, "The database does not answer."),
    errors.AliasBusyError: ProblemType("alias-busy", 503, "Other decisions on the same alias took too long."),
    errors.AnchorUnavailableError: ProblemType("anchor-unavailable", 503, "A store of the chain's anchors does not answer."),
}
"""A test keeps it complete."""


def _headers(error: errors.RegistryApiError) -> Mapping[str, str]:
    if TYPES[type(error)].status != 503:
        return {}
    # the cause goes to the log, not to the client
    log.warning("%s: %s", type(error).__name__, str(error.__cause__ or error)[:500])
    return {"Retry-After": str(RETRY_AFTER_S)}


def _members(error: errors.RegistryApiError) -> Mapping[str, Any]:
    if not isinstance(error, errors.PolicyRefusedError):
        return {}
    decision = error.decision
    fields = {"decision": decision.id, "chain_entry": decision.chain_entry, "chain_hash": decision.chain_hash}
    return fields | {"verdicts": [verdict.model_dump(mode="json") for verdict in decision.verdicts]}


TABLE = ProblemTable(errors.RegistryApiError, TYPES, _headers, _members)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of an endpoint for OpenAPI."""
    return problems.documented(*statuses, models={409: [RefusedProblem.__name__]})
