"""What an image is asked for with (`POST /generate`, `POST /jobs`), and what is known of it afterwards."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atelier_contracts.identifiers import AliasName, Digest, ModelName, VersionNumber
from atelier_contracts.problem import Problem

MAX_IMAGES, MAX_ADAPTERS = 8, 4

SchedulerName = Literal["ddim", "euler", "euler_ancestral", "dpmpp_2m_karras"]


class AdapterChoice(BaseModel):
    """One adapter of a blend."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    version: VersionNumber | None = None
    alias: AliasName | None = None
    weight: float = Field(default=1.0, ge=-4.0, le=4.0, description="times the adapter's own scale")

    @model_validator(mode="after")
    def _one_source(self) -> AdapterChoice:
        if (self.version is None) == (self.alias is None):
            raise ValueError(f"an adapter is named by version or by alias; received {self.version} and {self.alias!r}")
        return self


class GenerateRequest(BaseModel):
    """Images. Without `version`, `alias`, `adapters` or `base` the champion draws."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    prompt: str = Field(min_length=1, max_length=2000)
    negative_prompt: str = Field(default="", max_length=2000)
    steps: int = Field(default=25, ge=1, le=150)
    guidance_scale: float = Field(default=5.0, ge=0.0, le=30.0, description="1 or less: no guidance, half the work")
    guidance_until: float = Field(
        default=1.0, ge=0.0, le=1.0, description="part of the steps with guidance; the others cost half"
    )
    scheduler: SchedulerName | None = Field(default=None, description="the service's own when absent")
    seed: int | None = Field(default=None, ge=0, lt=2**32, description="drawn at random and returned when absent")
    n: int = Field(default=1, ge=1, le=MAX_IMAGES, description="images; the second has the next seed, and so on")
    width: int | None = Field(default=None, description="px; the base's native size when absent")
    height: int | None = Field(default=None, description="px; the base's native size when absent")
    version: VersionNumber | None = None
    alias: AliasName | None = None
    adapters: list[AdapterChoice] = Field(default_factory=list, max_length=MAX_ADAPTERS, description="a blend")
    scale: float = Field(
        default=1.0, ge=-4.0, le=4.0, description="times every adapter's own scale; 0 draws what the base draws"
    )
    base: bool = Field(default=False, description="draw with the champion's base model, without an adapter")

    @model_validator(mode="after")
    def _one_source(self) -> GenerateRequest:
        named = [name for name in ("version", "alias", "adapters", "base") if getattr(self, name)]
        if len(named) > 1:
            raise ValueError(f"name one of version, alias, adapters and base; received {' and '.join(named)}")
        return self


class JobRequest(GenerateRequest):
    """`POST /jobs`."""

    callback_url: str | None = Field(
        default=None,
        max_length=2000,
        description="where the JobStatus is posted once the job has ended, signed as Standard Webhooks says; of a listed host",
    )


class CallbackStatus(BaseModel):
    """What became of a job's callback."""

    state: Literal["waiting", "delivered", "given_up"] = Field(description="waiting: for the job's end, or for the next try")
    tries: int
    problem: str | None = Field(description="what the receiver said last, where it did not take it")


class DrawnAdapter(BaseModel):
    """One adapter that took part."""

    model_config = ConfigDict(strict=True)

    version: VersionNumber
    digest: Digest
    weight: float = Field(description="with the request's scale in it", allow_inf_nan=False)


class Drawn(BaseModel):
    """Everything needed to draw the same image again; kept as JSON in the image's text."""

    model_config = ConfigDict(strict=True)

    model: ModelName
    version: str = Field(
        pattern=r"^(base|[1-9][0-9]{0,9}(\+[1-9][0-9]{0,9}){0,3})$",
        description="`base`, a number, or the numbers of a blend with + between them",
    )
    adapter_digest: Digest | None = Field(description="none where no adapter or several took part")
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
    adapters: list[DrawnAdapter] = Field(default_factory=list, max_length=MAX_ADAPTERS)


class ImageInJson(BaseModel):
    """One image of an answer in JSON."""

    drawn: Drawn
    png: str = Field(description="base64")


class Images(BaseModel):
    """`POST /generate` with `Accept: application/json`."""

    images: list[ImageInJson]
    alias: str | None = Field(
        default=None, description="what led to the version: the alias asked for, champion or the canary's; else none"
    )
    warnings: list[str]


class JobStatus(BaseModel):
    """`GET /jobs/{id}`."""

    id: str
    state: Literal["waiting", "drawing", "done", "failed", "cancelled"]
    position: int | None = Field(description="images that are drawn or wait before this one; none once it is drawn")
    step: int = Field(description="steps taken, of all its images")
    steps: int = Field(description="steps of all its images")
    seconds_left: float | None = Field(description="estimated from the last images; none once it has ended")
    images: list[str] = Field(description="paths of the images; all of them once it is done")
    drawn: list[Drawn] = Field(description="what each image is drawn with")
    alias: str | None = Field(
        default=None, description="what led to the version: the alias asked for, champion or the canary's; else none"
    )
    warnings: list[str]
    problem: Problem | None
    callback: CallbackStatus | None = Field(default=None, description="none where no callback_url was given")


class Verified(BaseModel):
    """`POST /verify`: an image of ours beside what its own text draws now."""

    same: bool = Field(description="no value differs by more than one level of 255")
    max_difference: int = Field(description="of 255, over all pixels and channels")
    differing: float = Field(description="share of values that differ at all")
    drawn: Drawn


JobStatus.model_rebuild()
