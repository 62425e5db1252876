"""What the endpoints answer with, beside the contracts' `Decision` and `Problem`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from atelier_contracts.identifiers import VersionNumber
from atelier_contracts.manifests import Evidence
from atelier_contracts.promotion import Decision
from atelier_contracts.stage import MAX_IMAGES, StageImage, StageResponse
from pydantic import BaseModel, ConfigDict, Field


class RunFacts(BaseModel):
    """The run that made a version."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    id: str
    name: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float] = Field(description="last values; one that is not a number is the string NaN")


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
    run: RunFacts | None = Field(default=None, description="in a list only where runs=true asked for it")


class ModelSummary(BaseModel):
    """A registered model."""

    name: str
    description: str
    aliases: dict[str, int] = Field(description="alias to the version that it points at")
    latest_version: VersionSummary | None
    problems: list[str] = Field(default_factory=list, description="versions that an alias points at whose files were changed")


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


class Lineage(BaseModel):
    """Where a version comes from, as its adapter.json says, or else its tags and its run's. Null: not recorded."""

    run_id: str | None = None
    bundle_digest: str | None = Field(default=None, description="of the base bundle that the adapter belongs to")
    dataset_digest: str | None = None
    git_revision: str | None = None
    weights_sha256: str | None = None


class VersionDetail(VersionSummary):
    """`GET /models/{name}/versions/{version}`."""

    lineage: Lineage
    evidence: Evidence | None = Field(description="what was measured before the version was registered; null without the file")
    problems: list[str] = Field(description="what is wrong with the version's own records, empty for a good one")


class AliasState(BaseModel):
    """`GET /models/{name}/aliases/{alias}`."""

    model: str
    alias: str
    version: int
    since: datetime | None = Field(description="null: changed outside registry-api, and not kept as a decision yet")
    decision: int | None
    adapter_digest: str | None = Field(default=None, description="of the files that were decided on; infer serves no others")
    problem: str | None = Field(default=None, description="what the last comparison found wrong with the version's files")


class Pair(BaseModel):
    """A parameter or a metric of two versions; null where a version lacks it, text where a metric is not finite."""

    left: float | str | None
    right: float | str | None
    difference: float | None = Field(default=None, description="right - left, where both are finite numbers")


class Comparison(BaseModel):
    """`GET /models/{name}/compare`."""

    left: VersionDetail
    right: VersionDetail
    params: dict[str, Pair] = Field(description="those that differ")
    metrics: dict[str, Pair]
    losses_comparable: bool = Field(description="both were measured on the same validation data")


class ImageInfo(BaseModel):
    """An image that the training logged."""

    key: str
    step: int
    path: str = Field(description="address of the PNG, below this service's own")


class Images(BaseModel):
    """`GET /models/{name}/versions/{version}/images`."""

    images: list[ImageInfo]


class CurvePoint(BaseModel):
    """A metric at a step."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    step: int
    value: float


class Curve(BaseModel):
    """`GET /models/{name}/versions/{version}/curves/{metric}`."""

    metric: str
    points: list[CurvePoint]


class DrawRequest(BaseModel):
    """`POST /models/{name}/draw`: the same images by several versions."""

    model_config = ConfigDict(extra="forbid", strict=True)

    versions: list[VersionNumber] = Field(min_length=1, max_length=4)
    images: list[StageImage] = Field(min_length=1, max_length=MAX_IMAGES)


class Drawn(BaseModel):
    """What each version drew, or why it did not."""

    version: int
    staged: StageResponse | None
    problem: str | None


class Drawings(BaseModel):
    """The answer to `POST /models/{name}/draw`."""

    drawn: list[Drawn]


class SubscriberState(BaseModel):
    """A subscriber, and how far it is in the events."""

    name: str
    url: str = Field(description="without its query, which may hold a secret")
    models: list[str] | None = Field(description="of these models only; null: all")
    aliases: list[str] | None = Field(description="of these aliases only; null: all")
    last_event: int = Field(description="id of the last event that is behind it")
    waiting: int = Field(description="events after that one, wanted or not")
    tries: int = Field(description="how often the next one was refused")
    problem: str | None = Field(description="why, the last time")
    next_try_at: datetime | None
    taken_at: datetime | None = Field(description="when it last took an event")


class SubscriberStates(BaseModel):
    """`GET /subscribers`."""

    subscribers: list[SubscriberState]


class Pinged(BaseModel):
    """`POST /subscribers/{name}/ping`."""

    taken: bool
    problem: str | None = Field(description="why not")


class Status(BaseModel):
    """`GET /healthz` and `GET /readyz`."""

    status: Literal["ok", "ready", "unavailable"]
