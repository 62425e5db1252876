"""Requests and answers of registry-api about moving an alias."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from atelier_contracts.names import CHAMPION


class PromoteRequest(BaseModel):
    """`POST /models/{name}/versions/{version}/promote`."""

    model_config = ConfigDict(extra="forbid")

    alias: str = Field(CHAMPION, pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    reason: str = Field(min_length=1, max_length=2000)


class RollbackRequest(PromoteRequest):
    """`POST /models/{name}/rollback`; without `version` to the one before the present one."""

    version: int | None = Field(None, ge=1)


class Decision(BaseModel):
    """One move of an alias, as it was kept."""

    id: int
    at: datetime
    actor: str
    action: Literal["promote", "rollback"]
    model: str
    alias: str
    from_version: int | None
    to_version: int
    reason: str
