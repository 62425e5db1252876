"""Requests and answers of registry-api about moving an alias."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from atelier_contracts.generate import Problem
from atelier_contracts.identifiers import Digest, VersionNumber
from atelier_contracts.names import CHAMPION

Action = Literal["promote", "rollback", "retire", "outside", "record", "revert"]
Outcome = Literal["done", "refused", "proposed", "rejected", "pending", "failed", "dry_run"]


class Reasoned(BaseModel):
    """A request that is kept with its reason; all of one to retire a version, to approve, or to reject."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str = Field(min_length=1, max_length=2000)

    @field_validator("reason")
    @classmethod
    def _says_something(cls, reason: str) -> str:
        if not reason.strip() or "\0" in reason:
            raise ValueError("must say something, in text without NUL characters")
        return reason


class PromoteRequest(Reasoned):
    """`POST /models/{name}/versions/{version}/promote`."""

    alias: str = Field(default=CHAMPION, pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    force: bool = Field(default=False, description="admin only: in spite of what the rules say; marked for ever")
    dry_run: bool = Field(default=False, description="answer what would happen, change and keep nothing")


class RollbackRequest(PromoteRequest):
    """`POST /models/{name}/rollback`; without `version` to the one before the present one."""

    version: VersionNumber | None = None


class Verdict(BaseModel):
    """What one rule says, and the numbers it saw."""

    rule: str
    passed: bool
    reason: str
    numbers: dict[str, float | str | None] = Field(default_factory=dict)
    binding: bool = Field(default=False, description="holds even where force is used")


class Decision(BaseModel):
    """One decision about an alias or a version, as it was kept."""

    id: int = Field(description="0 for a dry run, which is not kept")
    at: datetime
    actor: str
    action: Action = Field(
        description="outside: the alias was moved with another MLflow client; record: the digest of a version that was "
        "promoted earlier was written down; revert: infer stopped drawing with the version, and the alias stayed where it is"
    )
    model: str
    alias: str | None = Field(description="null where a version was retired")
    from_version: int | None
    to_version: int | None = Field(description="null where the alias was deleted")
    reason: str
    outcome: Outcome = "done"
    done_at: datetime | None = None
    forced: bool = False
    approved_by: str | None = None
    verdicts: list[Verdict] = Field(default_factory=list)
    adapter_digest: Digest | None = Field(
        default=None, description="of the files that were decided on; infer serves no others. null where it is no adapter"
    )
    chain_entry: int | None = Field(default=None, description="number of the decision's newest entry in the chain")
    chain_hash: Digest | None = Field(
        default=None, description="hash of that entry; `verify --head` proves that it still occurs"
    )


class RefusedProblem(Problem):
    """A refusal by the rules. It was kept as a decision of its own."""

    decision: int
    verdicts: list[Verdict]
    chain_entry: int | None = None
    chain_hash: Digest | None = None
