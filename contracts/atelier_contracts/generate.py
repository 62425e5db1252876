"""`POST /generate`: what a picture is asked for with, and what is known of it afterwards."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class GenerateRequest(BaseModel):
    """One picture. Without `version`, `alias` or `base` the champion draws."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    prompt: str = Field(min_length=1, max_length=2000)
    negative_prompt: str = Field("", max_length=2000)
    steps: int = Field(25, ge=1, le=150)
    guidance_scale: float = Field(5.0, ge=0.0, le=30.0, description="1 or less: no guidance, half the work")
    seed: int | None = Field(None, ge=0, lt=2**32, description="drawn at random and returned when absent")
    width: int | None = Field(None, description="px; the base's native size when absent")
    height: int | None = Field(None, description="px; the base's native size when absent")
    version: int | None = Field(None, ge=1)
    alias: str | None = Field(None, min_length=1, max_length=255)
    base: bool = Field(False, description="draw with the champion's base model, without an adapter")

    @model_validator(mode="after")
    def _one_source(self) -> GenerateRequest:
        named = [name for name in ("version", "alias", "base") if getattr(self, name)]
        if len(named) > 1:
            raise ValueError(f"name one of version, alias and base; received {' and '.join(named)}")
        return self


class Drawn(BaseModel):
    """Everything needed to draw the same picture again; kept as JSON in the PNG's text."""

    model: str
    version: str
    adapter_digest: str | None
    bundle_digest: str
    prompt: str
    negative_prompt: str
    steps: int
    guidance_scale: float
    seed: int
    width: int
    height: int
    scheduler: str


class Problem(BaseModel):
    """An error's body, `application/problem+json`. Source: RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
