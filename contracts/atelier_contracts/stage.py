"""`POST /stage` of infer: load a version as serving would, and show what it draws, without serving it."""

from __future__ import annotations

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from atelier_contracts.identifiers import Digest, ModelName, VersionNumber

MAX_IMAGES = 8


class StageImage(BaseModel):
    """One image to draw with the staged version: the same fields give the same image."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=True)

    prompt: str = Field(min_length=1, max_length=2000)
    seed: int = Field(default=0, ge=0, lt=2**32)
    steps: int = Field(default=8, ge=1, le=150)
    size: int | None = Field(default=None, ge=1, description="px, width and height; the base's native size when absent")
    guidance_scale: float = Field(default=5.0, ge=0.0, le=30.0)


class StageRequest(BaseModel):
    """Which version, and what to draw with it. Without images it is loaded, checked and run for one step."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: ModelName | None = Field(default=None, description="refused where another model is served")
    version: VersionNumber
    adapter_digest: Digest | None = Field(default=None, description="refused where the version's files have another digest")
    images: list[StageImage] = Field(default_factory=list, max_length=MAX_IMAGES)


class StagedImage(BaseModel):
    """An image as it was asked for, and its PNG."""

    asked: StageImage
    seconds: float = Field(description="waiting included")
    png: Base64Bytes


class Staged(BaseModel):
    """The version loads, its digests agree, and one step is finite."""

    model: str
    version: int
    adapter_digest: str
    bundle_digest: str
    load_seconds: float = Field(description="near 0 where the version was in memory")
    step_seconds: float = Field(description="one step at native size, waiting included")
    images: list[StagedImage]
