"""Answers of this service alone: what is loaded, and whether it is alive."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Status(BaseModel):
    """`GET /healthz` and `GET /readyz`; no details, because no login is needed."""

    status: Literal["alive", "ready", "stale", "starting", "draining"] = Field(
        description="stale: answers, but with older versions than the registry names; see GET /models with a token"
    )


class Served(BaseModel):
    """One alias."""

    target: int = Field(description="the version that the registry names")
    serving: int | None = Field(description="the version that draws; another one while the target is loaded or was refused")
    problem: str | None = Field(description="why the target was refused")


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


class Models(BaseModel):
    """`GET /models`."""

    model: str
    scheduler: str
    aliases: dict[str, Served]
    adapters: list[LoadedAdapter]
    bundles: list[LoadedBundle]
    requests: int = Field(description="requests that wait, load or are drawn now")
