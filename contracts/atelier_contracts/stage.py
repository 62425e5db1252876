"""`POST /stage` of infer: load a version as serving would and return sample images, without serving it."""

from __future__ import annotations

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from atelier_contracts.identifiers import Digest, ModelName, VersionNumber
from atelier_contracts.styles import GuidanceScale, Steps

MAX_IMAGES = 8


class StageImage(BaseModel):
    """One image to generate with the staged version; equal fields give equal images."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=True)

    prompt: str = Field(min_length=1, max_length=2000)
    seed: int = Field(default=0, ge=0, lt=2**32)
    steps: Steps = 8
    size: int | None = Field(default=None, ge=1, description="px, width and height; the base model's native size when absent")
    guidance_scale: GuidanceScale = 5.0


class StageRequest(BaseModel):
    """Without images the version is loaded, checked and run for one step."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: ModelName | None = Field(default=None, description="refused when infer serves another model")
    version: VersionNumber
    adapter_digest: Digest | None = Field(default=None, description="refused when the version's files have another digest")
    images: list[StageImage] = Field(default_factory=list, max_length=MAX_IMAGES)


class StagedImage(BaseModel):
    request: StageImage
    seconds: float = Field(description="including time in the queue")
    png: Base64Bytes


class StageResponse(BaseModel):
    """The version loads, its digests agree, and the output of one step is finite."""

    model: str
    version: int
    adapter_digest: str
    bundle_digest: str
    load_seconds: float = Field(description="near 0 when the version was in memory")
    step_seconds: float = Field(description="one step at native size, including time in the queue")
    images: list[StagedImage]
