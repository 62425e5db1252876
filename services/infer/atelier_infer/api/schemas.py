"""Response bodies of infer that no other service reads."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from atelier_contracts.served import ServedModel
from atelier_contracts.styles import Style
from pydantic import BaseModel, Field


class Status(BaseModel):
    """`GET /healthz` and `GET /readyz`; without details, because no token is required."""

    status: Literal["alive", "stuck", "ready", "stale", "starting", "draining"] = Field(
        description="stale: responds, but with older versions than the registry names; see GET /models with a token"
    )


class CanaryState(BaseModel):
    """The alias that serves a share of the requests that do not name a version."""

    alias: str
    percent: float = Field(description="its share; the champion serves the rest")
    serving_version: int | None
    active: bool = Field(description="whether it serves its share now; otherwise the champion does")
    inactive_reason: str | None


class DescribedVersion(BaseModel):
    """A version, with the style that it has now."""

    version: int
    style: Style | None = Field(
        default=None, description="its own with the model's edits over it; null while the version is not in memory"
    )
    preview: str | None = Field(default=None, description="path of its preview; null without one, or as style")


class LoadedAdapter(DescribedVersion):
    adapter_digest: str
    bundle_digest: str
    rank: int
    size_mib: float


class LoadedBundle(BaseModel):
    bundle_digest: str
    base_model: str
    native_size_px: int


class MemoryUsage(BaseModel):
    limit_mib: float = Field(description="ATELIER_INFER_MEMORY_MIB, or the available memory less a margin")
    free_mib: float = Field(description="for steps, decodes, adapters and base models")
    used_mib: dict[str, float] = Field(
        description="process, bundles, adapters, concatenated_adapters (of mixed steps), images (PNGs of jobs), uploads, arena "
        "(what ONNX Runtime keeps of the last steps), profiling"
    )


class ModelsResponse(ServedModel):
    """`GET /models`."""

    scheduler: str
    canary: CanaryState | None = Field(description="null if none is configured")
    provider: str = Field(description="ONNX Runtime's execution provider")
    adapters: list[LoadedAdapter]
    adapters_mib: float
    bundles: list[LoadedBundle]
    admitted_images: int = Field(description="images that are waiting, running, or loading their version")
    memory: MemoryUsage | None
    cache_mib: float = Field(description="size of the folder with bundles, adapters and graphs")
    cache_limit_mib: int


class VersionSummary(DescribedVersion):
    aliases: list[str]
    created_at: datetime
    image: str = Field(description="path of its validation image, which may not exist")


class VersionsResponse(BaseModel):
    """`GET /versions`, newest first."""

    model: str
    native_size_px: int | None = Field(description="of the champion's base model; null without a champion")
    size_multiple_px: int | None
    max_side_px: int
    scheduler: str
    versions: list[VersionSummary]
