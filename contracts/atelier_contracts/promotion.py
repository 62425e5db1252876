"""Requests and responses of registry-api about decisions on aliases and versions."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from atelier_contracts.identifiers import Digest, VersionNumber
from atelier_contracts.names import CHAMPION
from atelier_contracts.problem import Problem
from atelier_contracts.styles import StyleEdits

Action = Literal["promote", "rollback", "retire", "outside", "record", "revert", "style"]
Outcome = Literal["done", "refused", "proposed", "rejected", "pending", "failed", "dry_run"]


class ReasonedRequest(BaseModel):
    """A request with a reason, which is recorded. The whole body to retire a version, to approve or to reject."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str = Field(min_length=1, max_length=2000)

    @field_validator("reason")
    @classmethod
    def _check_reason(cls, reason: str) -> str:
        if not reason.strip() or "\0" in reason:
            raise ValueError("must contain text without NUL characters")
        return reason


class PromoteRequest(ReasonedRequest):
    """`POST /models/{name}/versions/{version}/promote`."""

    alias: str = Field(default=CHAMPION, pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    force: bool = Field(default=False, description="admin only: override rules that do not pass; recorded with the decision")
    dry_run: bool = Field(default=False, description="return the outcome without changing or recording anything")


class RollbackRequest(PromoteRequest):
    """`POST /models/{name}/rollback`; without `version`: to the previous one."""

    version: VersionNumber | None = None


class EditStyleRequest(ReasonedRequest):
    """`PATCH /models/{name}/style`."""

    style: StyleEdits = Field(
        description="a JSON merge patch (RFC 7396): null takes an edit back, other fields stay as they are"
    )


class StyleChange(BaseModel):
    """The edits of a model's style before and after a decision; null: the field is not edited."""

    before: StyleEdits
    after: StyleEdits


class Verdict(BaseModel):
    """The result of one rule, and the values it is based on."""

    rule: str
    passed: bool
    reason: str
    numbers: dict[str, float | str | None] = Field(default_factory=dict)
    binding: bool = Field(default=False, description="cannot be overridden with force")


class Decision(BaseModel):
    """A recorded decision on an alias, a version or a style."""

    id: int = Field(description="0 for a dry run, which is not recorded")
    at: datetime
    actor: str
    action: Action = Field(
        description="outside: the alias or the style was changed with another MLflow client; record: the digest of a version "
        "that was promoted earlier was recorded; revert: infer stopped serving the version, and the alias stayed where it is; "
        "style: the model's style was edited"
    )
    model: str
    alias: str | None = Field(description="null for a decision on a version or a style")
    from_version: int | None
    to_version: int | None = Field(description="null where the alias was deleted")
    reason: str
    outcome: Outcome = "done"
    done_at: datetime | None = None
    forced: bool = False
    approved_by: str | None = None
    verdicts: list[Verdict] = Field(default_factory=list)
    style: StyleChange | None = Field(default=None, description="null for a decision on an alias or a version")
    adapter_digest: Digest | None = Field(
        default=None,
        description="of the files that were decided on; infer serves no others. null for a version that is no adapter",
    )
    chain_entry: int | None = Field(default=None, description="number of the decision's newest entry in the chain")
    chain_hash: Digest | None = Field(
        default=None, description="hash of that entry; `verify --head` checks that it still occurs"
    )


class RefusedProblem(Problem):
    """A refusal by the policy, which was recorded as a decision."""

    decision: int
    verdicts: list[Verdict]
    chain_entry: int | None = None
    chain_hash: Digest | None = None
