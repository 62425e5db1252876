"""Answers of this service alone: what is loaded, and whether it is alive."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field


class Status(BaseModel):
    """`GET /healthz` and `GET /readyz`; no details, because no login is needed."""

    status: Literal["alive", "stuck", "ready", "stale", "starting", "draining"] = Field(
        description="stale: answers, but with older versions than the registry names; see GET /models with a token"
    )


class Served(BaseModel):
    """One alias."""

    target: int = Field(description="the version that the registry names")
    serving: int | None = Field(description="the version that draws; another one while the target is loaded or was refused")
    adapter_digest: str | None = Field(default=None, description="of the files that it draws with")
    reverted_from: int | None = Field(
        default=None, description="the target, where it drew blank or non-finite images, so that it does not draw any more"
    )
    problem: str | None = Field(
        description="why the target was refused, or what was changed in the files of the version that draws"
    )


class CanaryState(BaseModel):
    """What draws a share of the requests that leave the version to the service."""

    alias: str
    percent: float = Field(description="its share of them; the champion draws the others")
    serving: int | None = Field(description="the version that its alias draws with")
    takes_requests: bool = Field(description="whether it draws its share now; otherwise the champion does")
    why_not: str | None = Field(description="why it does not")


class LoadedAdapter(BaseModel):
    """One version in memory."""

    version: int
    adapter_digest: str
    bundle_digest: str
    rank: int
    mib: float


class LoadedBundle(BaseModel):
    """One base model in memory."""

    bundle_digest: str
    base: str
    native_size_px: int


class MemoryState(BaseModel):
    """The account of memory."""

    limit_mib: float = Field(description="what the service may use: ATELIER_INFER_MEMORY_MIB, or what there is less a margin")
    free_mib: float = Field(description="what is left for a step, decodings, adapters and bases")
    held_mib: dict[str, float] = Field(
        description="process, bundles, adapters (whoever holds them), side_by_side (arrays of mixed steps), images (kept "
        "PNGs), uploads, arena (what ONNX Runtime keeps of the last steps), measurement"
    )


class Models(BaseModel):
    """`GET /models`."""

    model: str
    scheduler: str
    aliases: dict[str, Served]
    canary: CanaryState | None = Field(description="none where the settings name none")
    provider: str = Field(description="what ONNX Runtime runs the graphs with, as it says itself")
    adapters: list[LoadedAdapter]
    adapters_mib: float = Field(description="memory of all of them")
    bundles: list[LoadedBundle]
    requests: int = Field(description="images that wait, load or are drawn now")
    memory: MemoryState | None
    cache_mib: float = Field(description="of the folder with bundles, adapters and graphs")
    cache_limit_mib: int


class Listed(BaseModel):
    """One version that may be asked for."""

    version: int
    aliases: list[str]
    created_at: datetime
    image: str = Field(description="path of its validation image, which may not exist")


class VersionList(BaseModel):
    """`GET /versions`, the newest first."""

    model: str
    native_size_px: int | None = Field(description="of the champion's base; none before there is one")
    size_multiple_px: int | None
    max_side_px: int
    scheduler: str
    versions: list[Listed]
