"""A style: what people should know of an adapter, and the values of a request that suit it.

A version's own style lies in its adapter.json and never changes. A registered model has edits of it, which registry-api
decides on and keeps in a tag of the model; the effective style of a version is its own one with the edits laid over it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SchedulerName = Literal["ddim", "euler", "euler_ancestral", "dpmpp_2m_karras"]

Steps = Annotated[int, Field(ge=1, le=150)]
GuidanceScale = Annotated[float, Field(ge=0.0, le=30.0, allow_inf_nan=False)]
Scale = Annotated[float, Field(ge=-4.0, le=4.0, allow_inf_nan=False)]
"""Multiplies every adapter's own scale; 0 gives the base model's image."""

Title = Annotated[str, Field(max_length=200)]
Description = Annotated[str, Field(max_length=5000)]
Word = Annotated[str, Field(min_length=1, max_length=200)]

MAX_WORDS = 50

MAX_PREVIEW_BYTES, MAX_PREVIEW_SIDE_PX = 2**20, 512

MAX_TAG_CHARACTERS = 5000
"""MLflow keeps the tags of registered models in columns of this size."""


class Recommended(BaseModel):
    """Values for requests that name none; None leaves the service's own default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    scale: Scale | None = None
    steps: Steps | None = None
    scheduler: SchedulerName | None = None
    guidance_scale: GuidanceScale | None = None

    def text(self) -> str:
        """For people; empty without values."""
        values = self.model_dump(exclude_none=True)
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


class Style(BaseModel):
    """What people should know of an adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: Title | None = None
    description: Description | None = None
    author: Title | None = None
    licence: Title | None = None
    trigger_words: tuple[str, ...] = Field(default=(), max_length=MAX_WORDS)
    tags: tuple[str, ...] = Field(default=(), max_length=MAX_WORDS)
    recommended: Recommended = Recommended()


class StyleEdits(BaseModel):
    """The fields of a model's style that were edited; None for the others, which are those of each version.

    As a JSON merge patch, a field that is given as null takes its edit back, and one that is left out keeps it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    title: Title | None = None
    description: Description | None = None
    author: Title | None = None
    licence: Title | None = None
    trigger_words: list[Word] | None = Field(default=None, max_length=MAX_WORDS)
    tags: list[Word] | None = Field(default=None, max_length=MAX_WORDS)
    recommended: Recommended | None = None

    def values(self) -> dict[str, Any]:
        """The edited fields alone, as JSON has them."""
        values: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        return {name: value for name, value in values.items() if name != "recommended" or value}

    def patched(self, patch: StyleEdits) -> StyleEdits:
        """With a merge patch applied."""
        merged = merge_patch(self.values(), patch.model_dump(mode="json", exclude_unset=True))
        return StyleEdits.model_validate_json(json.dumps(merged))

    def over(self, style: Style) -> Style:
        """A style with these edits laid over it."""
        values, edits = style.model_dump(), self.values()
        recommended = values["recommended"] | edits.pop("recommended", {})
        return Style(**(values | edits | {"recommended": recommended}))


class RecordedEdits(BaseModel):
    """Content of the tag TAG_STYLE: a model's edits, and the decision of registry-api that they stand for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision: int = Field(ge=0, description="id of the decision; 0 before the first")
    edits: StyleEdits = StyleEdits()

    def tag(self) -> str:
        return json.dumps(
            {"decision": self.decision, "edits": self.edits.values()}, ensure_ascii=False, separators=(",", ":"), sort_keys=True
        )


def merge_patch(target: Any, patch: Any) -> Any:
    """A JSON value after a merge patch. Source: RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def field_names(style: Style | StyleEdits) -> set[str]:
    """Fields that have a value; those of `recommended` as `recommended.steps`."""
    values = style.model_dump(mode="json", exclude_none=True)
    recommended = values.pop("recommended", {})
    kept = {name for name, value in values.items() if value != [] or isinstance(style, StyleEdits)}
    return kept | {f"recommended.{name}" for name in recommended}
