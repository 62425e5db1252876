"""Requests for images (`POST /generate`, `POST /jobs`), their responses, and the metadata of a generated image."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atelier_contracts.identifiers import AliasName, Digest, ModelName, VersionNumber
from atelier_contracts.problem import Problem
from atelier_contracts.styles import GuidanceScale, Scale, SchedulerName, Steps

MAX_IMAGES, MAX_ADAPTERS = 8, 4

DEFAULT_STEPS, DEFAULT_GUIDANCE_SCALE, DEFAULT_SCALE = 25, 5.0, 1.0
"""For requests that name none, of versions whose style recommends none."""


class AdapterChoice(BaseModel):
    """One adapter of a blend, named by version or by alias."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    version: VersionNumber | None = None
    alias: AliasName | None = None
    weight: float = Field(default=1.0, ge=-4.0, le=4.0, description="multiplies the adapter's own scale")

    @model_validator(mode="after")
    def _one_source(self) -> AdapterChoice:
        if (self.version is None) == (self.alias is None):
            raise ValueError(
                f"an adapter must be named by version or by alias; received version {self.version} and alias {self.alias!r}"
            )
        return self


class GenerateRequest(BaseModel):
    """Without `version`, `alias`, `adapters` or `base` the service chooses: the champion, or the canary for its share."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    prompt: str = Field(min_length=1, max_length=2000)
    negative_prompt: str = Field(default="", max_length=2000)
    steps: Steps | None = Field(default=None, description=f"when absent: the version's recommended value, or {DEFAULT_STEPS}")
    guidance_scale: GuidanceScale | None = Field(
        default=None,
        description="1 or less: no guidance, half the work; when absent: the version's recommended value, or "
        f"{DEFAULT_GUIDANCE_SCALE:g}",
    )
    guidance_until: float = Field(
        default=1.0, ge=0.0, le=1.0, description="fraction of the steps with guidance; the others cost half"
    )
    scheduler: SchedulerName | None = Field(
        default=None, description="when absent: the version's recommended one, or the service's default"
    )
    seed: int | None = Field(default=None, ge=0, lt=2**32, description="random when absent; returned with the image")
    n: int = Field(default=1, ge=1, le=MAX_IMAGES, description="number of images; each has the seed after the one before it")
    width: int | None = Field(default=None, description="px; the base model's native size when absent")
    height: int | None = Field(default=None, description="px; the base model's native size when absent")
    version: VersionNumber | None = None
    alias: AliasName | None = None
    adapters: list[AdapterChoice] = Field(default_factory=list, max_length=MAX_ADAPTERS, description="a blend")
    scale: Scale | None = Field(
        default=None,
        description="multiplies every adapter's own scale; 0 gives the base model's image; when absent: the version's "
        f"recommended value, or {DEFAULT_SCALE:g}, as always for a blend",
    )
    base: bool = Field(default=False, description="the champion's base model without an adapter")

    @model_validator(mode="after")
    def _one_source(self) -> GenerateRequest:
        named = [name for name in ("version", "alias", "adapters", "base") if getattr(self, name)]
        if len(named) > 1:
            raise ValueError(f"name one of version, alias, adapters and base; received {' and '.join(named)}")
        return self


class JobRequest(GenerateRequest):
    webhook_url: str | None = Field(
        default=None,
        max_length=2000,
        description="receives the JobStatus when the job has ended, signed as Standard Webhooks specifies; on an allowed host",
    )


class WebhookStatus(BaseModel):
    state: Literal["pending", "delivered", "failed"] = Field(
        description="pending: the job has not ended, or another attempt will follow"
    )
    attempts: int
    last_error: str | None = Field(description="of the last attempt that was not accepted")


class AppliedAdapter(BaseModel):
    model_config = ConfigDict(strict=True)

    version: VersionNumber
    digest: Digest
    weight: float = Field(description="multiplied by the request's scale", allow_inf_nan=False)


class AppliedRecommendation(BaseModel):
    """What a request left open, and a style filled in."""

    model_config = ConfigDict(strict=True)

    version: VersionNumber = Field(description="whose style it is")
    decision: int | None = Field(description="of registry-api, whose edits of the style held; null without edits")
    fields: list[Literal["scale", "steps", "scheduler", "guidance_scale"]]


class GenerationMetadata(BaseModel):
    """Everything needed to generate the same image again; stored as JSON inside the image."""

    model_config = ConfigDict(strict=True)

    model: ModelName
    version: str = Field(
        pattern=r"^(base|[1-9][0-9]{0,9}(\+[1-9][0-9]{0,9}){0,3})$",
        description="`base`, a number, or the numbers of a blend joined by +",
    )
    adapter_digest: Digest | None = Field(description="none for the base model and for a blend")
    bundle_digest: Digest
    prompt: str
    negative_prompt: str
    steps: int
    guidance_scale: float = Field(allow_inf_nan=False)
    guidance_until: float = Field(default=1.0, allow_inf_nan=False)
    seed: int
    width: int = Field(ge=1, le=2**16, description="px")
    height: int = Field(ge=1, le=2**16, description="px")
    scheduler: str = Field(pattern=r"^[a-z0-9_]{1,40}$")
    adapters: list[AppliedAdapter] = Field(default_factory=list, max_length=MAX_ADAPTERS)
    recommended: AppliedRecommendation | None = Field(default=None, description="null where the request named every value")


class GeneratedImage(BaseModel):
    metadata: GenerationMetadata
    png: str = Field(description="base64")


class GenerateResponse(BaseModel):
    """`POST /generate` with `Accept: application/json`."""

    images: list[GeneratedImage]
    alias: str | None = Field(
        default=None, description="the alias that led to the version: the one in the request, champion or the canary's"
    )
    warnings: list[str]


class JobStatus(BaseModel):
    """`GET /jobs/{id}`."""

    id: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    queue_position: int | None = Field(description="images ahead of this job; none once it takes its last step")
    completed_steps: int = Field(description="summed over the images")
    total_steps: int = Field(description="summed over the images")
    seconds_left: float | None = Field(description="estimated from recent images; none once the job has ended")
    images: list[str] = Field(description="paths of the finished images")
    metadata: list[GenerationMetadata] = Field(description="one per image, finished or not")
    alias: str | None = Field(
        default=None, description="the alias that led to the version: the one in the request, champion or the canary's"
    )
    warnings: list[str]
    problem: Problem | None
    webhook: WebhookStatus | None = Field(default=None, description="none without a webhook_url")


class VerifyResponse(BaseModel):
    """`POST /verify`: an uploaded image compared with what its metadata generates now."""

    matches: bool = Field(description="no value differs by more than one level of 255")
    max_difference: int = Field(description="levels of 255, over all pixels and channels")
    differing_fraction: float = Field(description="fraction of values that differ at all")
    metadata: GenerationMetadata


JobStatus.model_rebuild()
