"""Every error of this service, as one tree. `problems.py` maps each leaf to an HTTP status.

RegistryApiError
├── AccessError
│   ├── RoleTooLowError           the token's role does not allow this
│   └── SelfApprovalError         the proposer of a decision may not approve it
├── NotFoundError
│   ├── UnknownModelError         MLflow has no registered model of this name
│   ├── UnknownVersionError       the model exists, this version of it does not
│   ├── UnknownAliasError         the model exists, this alias of it does not
│   ├── UnknownDecisionError      no decision has this id
│   ├── UnknownImageError         the version's run has no such image or metric
│   └── UnknownSubscriberError    no subscriber has this name
├── RefusedError
│   ├── InvalidArgumentError      a value in the request is never acceptable, whatever the state of the registry
│   ├── PolicyRefusedError        a rule of the policy did not pass; recorded as a decision
│   ├── NoEarlierVersionError     no earlier version of this alias is known, or it was deleted
│   ├── NotProposedError          the decision is not waiting for approval, or its subject has changed
│   ├── AliasedError              an alias points at the version to be retired
│   ├── PreconditionError         If-Match or If-None-Match does not hold
│   ├── KeyReusedError            the idempotency key was used for another request
│   └── UnreadableFileError       a version's files are stored where this service does not read, or are too large
├── StageError
│   ├── StageRefusedError         infer loaded the version, and it failed a check
│   └── StageUnavailableError     infer does not answer, or is not configured
├── UnavailableError
│   ├── TrackingUnavailableError  MLflow did not answer, or not with a valid answer
│   ├── DatabaseUnavailableError  decisions cannot be read or written
│   ├── AnchorUnavailableError    the bucket with the chain's anchors does not answer
│   ├── StageBusyError            the limit of concurrent requests to infer is reached
│   └── AliasBusyError            other decisions on the same alias took too long
└── StartError
    ├── PolicyError               the policy file is invalid; the message lists every problem
    ├── SubscribersError          the subscribers file is invalid; the message lists every problem
    └── SchemaError               the database cannot be migrated to this release
"""

from __future__ import annotations

from collections.abc import Sequence

from atelier_contracts.promotion import Decision
from atelier_contracts.tokens import Role


class RegistryApiError(Exception):
    """Root of the tree. `str()` of each is a sentence for the caller: the rule, the value received, the remedy."""


class AccessError(RegistryApiError):
    """The request's token does not allow this."""


class RoleTooLowError(AccessError):
    def __init__(self, identity: str, role: Role, required: Role) -> None:
        sufficient = " or ".join(other.name for other in Role if other >= required)
        super().__init__(f"{identity} has the role {role.name}; this requires {sufficient}")


class SelfApprovalError(AccessError):
    def __init__(self, actor: str, decision: int) -> None:
        super().__init__(f"decision {decision} was proposed by {actor}; somebody else must approve it")


class NotFoundError(RegistryApiError):
    """The address names something that does not exist."""


class UnknownModelError(NotFoundError):
    """MLflow has no registered model of this name.

    Args:
        name: as received.
        known: some names that exist.
        more: whether there are others.
    """

    def __init__(self, name: str, known: Sequence[str], more: bool) -> None:
        listed = ", ".join(known) + (", and more (GET /models lists all)" if more else "")
        super().__init__(f"no model named {name!r}; " + (f"existing models: {listed}" if known else "there is no model yet"))


class UnknownVersionError(NotFoundError):
    """The model exists, this version of it does not.

    Args:
        name: the model.
        number: the version, as received.
        known: some versions that exist, newest first.
        more: number of the others, as text such as `5` or `more than 980`; None for none.
    """

    def __init__(self, name: str, number: int, known: Sequence[int], more: str | None) -> None:
        listed = ", ".join(map(str, known)) + (f", and {more} more" if more else "")
        super().__init__(f"{name} has no version {number}; " + (f"existing versions: {listed}" if known else "it has none yet"))


class UnknownAliasError(NotFoundError):
    def __init__(self, name: str, alias: str, known: Sequence[str]) -> None:
        listed = ", ".join(sorted(known)[:20])
        super().__init__(f"{name} has no alias {alias!r}; " + (f"existing aliases: {listed}" if known else "it has none yet"))


class UnknownDecisionError(NotFoundError):
    def __init__(self, decision_id: int) -> None:
        super().__init__(f"no decision has the id {decision_id}; GET /models/{{name}}/history lists decisions")


class UnknownImageError(NotFoundError):
    """The version's run has no such image or metric."""


class UnknownSubscriberError(NotFoundError):
    def __init__(self, name: str, known: Sequence[str]) -> None:
        hint = f"subscribers: {', '.join(known)}" if known else "none is configured (ATELIER_REGISTRY_SUBSCRIBERS_FILE)"
        super().__init__(f"no subscriber is named {name!r}; {hint}")


class RefusedError(RegistryApiError):
    """The request was understood and refused. Nothing was changed."""


class InvalidArgumentError(RefusedError):
    """A value in the request is never acceptable, whatever the state of the registry."""


class PolicyRefusedError(RefusedError):
    """A rule of the policy did not pass. The refusal is recorded as a decision with every verdict."""

    def __init__(self, decision: Decision) -> None:
        failed = [verdict for verdict in decision.verdicts if not verdict.passed]
        reasons = "; ".join(f"{verdict.rule}: {verdict.reason}" for verdict in failed)
        remedy = "" if any(verdict.binding for verdict in failed) else "; an admin may use force"
        super().__init__(
            f"version {decision.to_version} of {decision.model} may not become {decision.alias!r}: {reasons} "
            f"(recorded as decision {decision.id}{remedy})"
        )
        self.decision = decision


class NoEarlierVersionError(RefusedError):
    """No earlier version of this alias is known, or it was deleted."""


class NotProposedError(RefusedError):
    """The decision is not waiting for approval, or its subject has changed."""


class AliasedError(RefusedError):
    def __init__(self, name: str, number: int, aliases: Sequence[str]) -> None:
        super().__init__(
            f"a version that an alias points at cannot be retired; version {number} of {name} is {', '.join(sorted(aliases))}: "
            "promote another version or roll back first"
        )


class PreconditionError(RefusedError):
    def __init__(self, received: str, current: str | None) -> None:
        super().__init__(
            f"the alias does not meet the request's precondition; received {received}, "
            f"its ETag is {current or 'none: it does not exist'}: read the alias again before deciding"
        )


class KeyReusedError(RefusedError):
    def __init__(self, decision: int) -> None:
        super().__init__(
            f"an Idempotency-Key identifies one request; this key was used for another, which led to decision {decision}: "
            "send a new key"
        )


class UnreadableFileError(RefusedError):
    """A version's files are stored where this service does not read, or are too large. Listed in the version's `problems`."""


class StageError(RegistryApiError):
    """infer did not confirm that a version loads. `str()` is the reason."""


class StageRefusedError(StageError):
    """infer loaded the version, and it failed a check."""


class StageUnavailableError(StageError):
    """infer does not answer, or is not configured."""


class UnavailableError(RegistryApiError):
    """A dependency is unavailable. The same request may succeed later."""


class TrackingUnavailableError(UnavailableError):
    """MLflow did not answer, or not with a valid answer. The cause is chained and logged, never sent."""

    def __init__(self) -> None:
        super().__init__("the MLflow server is unavailable; the same request can safely be sent again")


class DatabaseUnavailableError(UnavailableError):
    """Decisions cannot be read or written. The cause is chained and logged, never sent."""

    def __init__(self) -> None:
        super().__init__("the database of decisions is unavailable; the same request can safely be sent again")


class AnchorUnavailableError(UnavailableError):
    """The bucket with the chain's anchors does not answer. The cause is chained and logged, never sent."""

    def __init__(self, store: str) -> None:
        super().__init__(f"{store} is unavailable; check the bucket's name, the region and the role's permissions")


class StageBusyError(UnavailableError):
    """The limit of concurrent requests to infer is reached; further ones would exhaust the worker threads."""


class AliasBusyError(UnavailableError):
    """Other decisions on the same alias took too long, and this one was not begun."""

    def __init__(self, model: str, alias: str | None, waited_s: float) -> None:
        super().__init__(
            f"another decision on {alias or 'versions'!r} of {model!r} did not complete within {waited_s:g} s; "
            "nothing was changed: read the history, then send the request again"
        )


class StartError(RegistryApiError):
    """The service cannot start; never sent over HTTP."""


class PolicyError(StartError):
    """The policy file is invalid. The message lists every problem."""


class SubscribersError(StartError):
    """The subscribers file is invalid. The message lists every problem."""


class SchemaError(StartError):
    """The database cannot be migrated to this release."""
