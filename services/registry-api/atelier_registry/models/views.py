"""Models and versions as readers see them: MLflow's data, combined with a version's files."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from atelier_contracts.manifests import Evidence, ImportSource
from atelier_contracts.styles import Style
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

JsonFloat = Annotated[
    float,
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}]}),
]
"""A number in a model with `ser_json_inf_nan="strings"`."""


class RunSummary(BaseModel):
    """The MLflow run that produced a version."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    id: str
    name: str
    status: str
    params: dict[str, str]
    metrics: dict[str, JsonFloat] = Field(description="last values; NaN and infinities are strings")


class VersionSummary(BaseModel):
    model: str
    version: int
    kind: str | None = Field(description="adapter or bundle; null for a version that Atelier did not register")
    status: str = Field(description="MLflow's; READY when the version's files are complete")
    created_at: datetime
    description: str
    aliases: list[str]
    tags: dict[str, str]
    run_id: str | None
    run: RunSummary | None = Field(default=None, description="in a list only with runs=true")


class ModelSummary(BaseModel):
    name: str
    description: str
    aliases: dict[str, int] = Field(description="alias to the version that it points at")
    latest_version: VersionSummary | None
    problems: list[str] = Field(default_factory=list, description="versions with an alias whose files were changed")


class Lineage(BaseModel):
    """Origin of a version, from its adapter.json, or else from its tags and its run's. Null: not recorded."""

    run_id: str | None = None
    bundle_digest: str | None = Field(default=None, description="of the bundle that the adapter belongs to")
    dataset_digest: str | None = None
    git_revision: str | None = None
    weights_sha256: str | None = None
    imported_from: ImportSource | None = Field(default=None, description="the file of another tool")


class VersionDetail(VersionSummary):
    lineage: Lineage
    evidence: Evidence | None = Field(description="what the trainer measured before it registered the version; null without")
    style: Style | None = Field(default=None, description="the version's own, without the model's edits; null without one")
    preview: str | None = Field(default=None, description="path of its preview on this service; null without one")
    problems: list[str] = Field(description="faults in the version's own records; empty for a sound version")


class ValuePair(BaseModel):
    """A parameter or metric of two versions. Null where a version lacks it; NaN and infinities are strings."""

    left: float | str | None
    right: float | str | None
    difference: float | None = Field(default=None, description="right - left, where both are finite numbers")


class Comparison(BaseModel):
    left: VersionDetail
    right: VersionDetail
    params: dict[str, ValuePair] = Field(description="parameters that differ")
    metrics: dict[str, ValuePair]
    losses_comparable: bool = Field(description="whether both losses were measured on the same validation data")
