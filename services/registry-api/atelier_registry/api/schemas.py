"""Responses of the endpoints, beside those of the contracts and `models.views`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from atelier_contracts.identifiers import VersionNumber
from atelier_contracts.promotion import Decision
from atelier_contracts.stage import MAX_IMAGES, StageImage, StageResponse
from atelier_contracts.styles import Style, StyleEdits
from pydantic import BaseModel, ConfigDict, Field

from atelier_registry.models.views import JsonFloat, ModelSummary, VersionSummary


class ModelPage(BaseModel):
    models: list[ModelSummary]
    next_page_token: str | None = Field(description="page_token of the next page; null on the last")


class VersionPage(BaseModel):
    """Newest first."""

    versions: list[VersionSummary]
    next_page_token: str | None = Field(description="page_token of the next page; null on the last")


class DecisionPage(BaseModel):
    """Newest first."""

    decisions: list[Decision]
    next_before_id: int | None = Field(description="before_id of the next page; null on the last")


class AliasState(BaseModel):
    model: str
    alias: str
    version: int
    since: datetime | None = Field(description="null: changed outside registry-api, and not recorded yet")
    decision: int | None = Field(description="id of the decision that pointed it there; null as since")
    adapter_digest: str | None = Field(default=None, description="of the files that were decided on; infer serves no others")
    problem: str | None = Field(default=None, description="what the last check found wrong with the version's files")


class EffectiveStyle(BaseModel):
    """A version's own style with the model's edits over it."""

    model: str
    version: int | None = Field(description="whose own style lies below; null where the model has no champion")
    style: Style
    sources: dict[str, Literal["version", "edit"]] = Field(description="of each field with a value, such as recommended.steps")
    edits: StyleEdits = Field(description="null: not edited")
    decision: int | None = Field(description="id of the decision that made the edits; null without any")
    preview: str | None = Field(description="path of the version's preview on this service; null without one")
    problem: str | None = Field(default=None, description="why the version's own style is missing")


class ImageInfo(BaseModel):
    """An image that the training logged."""

    key: str
    step: int
    path: str = Field(description="path of the PNG on this service")


class Images(BaseModel):
    images: list[ImageInfo]


class CurvePoint(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")

    step: int
    value: JsonFloat


class Curve(BaseModel):
    """Values of a metric over the steps."""

    metric: str
    points: list[CurvePoint]


class GenerateImagesRequest(BaseModel):
    """The same images by several versions."""

    model_config = ConfigDict(extra="forbid", strict=True)

    versions: list[VersionNumber] = Field(min_length=1, max_length=4)
    images: list[StageImage] = Field(min_length=1, max_length=MAX_IMAGES)


class VersionImages(BaseModel):
    """Images by one version, or why there are none."""

    version: int
    staged: StageResponse | None
    problem: str | None


class GeneratedImages(BaseModel):
    results: list[VersionImages]


class SubscriberState(BaseModel):
    """A subscriber, and its position in the events."""

    name: str
    url: str = Field(description="without its query, which may contain a secret")
    models: list[str] | None = Field(description="receives events of these models only; null: of all")
    aliases: list[str] | None = Field(description="receives events of these aliases only; null: of all")
    last_event_id: int = Field(description="of the last event that was delivered, filtered out or given up")
    pending_events: int = Field(description="events after that one, wanted or not")
    failed_attempts: int = Field(description="to deliver the next event")
    problem: str | None = Field(description="of the last attempt")
    next_attempt_at: datetime | None
    last_delivered_at: datetime | None


class SubscriberStates(BaseModel):
    subscribers: list[SubscriberState]


class PingResult(BaseModel):
    delivered: bool
    problem: str | None = Field(description="why it was not")


class Status(BaseModel):
    status: Literal["ok", "ready", "unavailable"]
