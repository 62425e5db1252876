"""What the endpoints answer with, beside the contracts' `Decision` and `Problem`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from atelier_contracts.manifests import Evidence
from atelier_contracts.promotion import Decision
from pydantic import BaseModel, ConfigDict, Field


class VersionSummary(BaseModel):
    """A version in a list."""

    model: str
    version: int
    kind: str | None = Field(description="adapter or bundle; null for a version that Atelier did not register")
    status: str = Field(description="MLflow's; READY when its files are complete")
    created_at: datetime
    description: str
    aliases: list[str]
    tags: dict[str, str]
    run_id: str | None


class ModelSummary(BaseModel):
    """A registered model."""

    name: str
    description: str
    aliases: dict[str, int] = Field(description="alias to the version that it points at")
    latest_version: VersionSummary | None


class ModelPage(BaseModel):
    """`GET /models`."""

    models: list[ModelSummary]
    next_page_token: str | None = Field(description="send it as page_token for the next page; null on the last")


class VersionPage(BaseModel):
    """`GET /models/{name}/versions`, newest first."""

    versions: list[VersionSummary]
    next_page_token: str | None = Field(description="send it as page_token for the next page; null on the last")


class DecisionPage(BaseModel):
    """`GET /models/{name}/history`, newest first."""

    decisions: list[Decision]
    next_before_id: int | None = Field(description="send it as before_id for the next page; null on the last")


class RunFacts(BaseModel):
    """The run that made a version."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    id: str
    name: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float] = Field(description="last values; one that is not a number is the string NaN")


class Lineage(BaseModel):
    """Where a version comes from, as its adapter.json says, or else its tags and its run's. Null: not recorded."""

    run_id: str | None = None
    bundle_digest: str | None = Field(None, description="of the base bundle that the adapter belongs to")
    dataset_digest: str | None = None
    git_revision: str | None = None
    weights_sha256: str | None = None


class VersionDetail(VersionSummary):
    """`GET /models/{name}/versions/{version}`."""

    run: RunFacts | None
    lineage: Lineage
    evidence: Evidence | None = Field(description="what was measured before the version was registered; null without the file")
    problems: list[str] = Field(description="what is wrong with the version's own records, empty for a good one")


class Status(BaseModel):
    """`GET /healthz` and `GET /readyz`."""

    status: Literal["ok", "ready", "unavailable"]
