"""Fills in what a request leaves open: with the values that the version's style recommends, or else the defaults."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from atelier_contracts.generate import (
    DEFAULT_GUIDANCE_SCALE,
    DEFAULT_SCALE,
    DEFAULT_STEPS,
    AppliedRecommendation,
    GenerateRequest,
)
from atelier_contracts.styles import RecordedEdits

from atelier_infer.artifacts.version_loader import Version
from atelier_infer.generation.sampling_params import max_steps

Field = Literal["scale", "steps", "scheduler", "guidance_scale"]

DEFAULTS: dict[Field, Any] = {
    "scale": DEFAULT_SCALE,
    "steps": DEFAULT_STEPS,
    "guidance_scale": DEFAULT_GUIDANCE_SCALE,
    "scheduler": None,
}
"""The service's settings name the scheduler."""


class CompleteRequest(NamedTuple):
    """A request that names scale, steps and guidance.

    Attributes:
        recommended: which of its values a style recommended; None for none.
        warnings: about recommended values that were left out.
    """

    request: GenerateRequest
    recommended: AppliedRecommendation | None = None
    warnings: tuple[str, ...] = ()


def complete(request: GenerateRequest, versions: tuple[Version, ...], edits: RecordedEdits | None) -> CompleteRequest:
    """Values that the request names always hold.

    Args:
        request: as it was received.
        versions: that generate. The first one's style holds; of a blend without its scale, because the weights of a blend say
            how strong each adapter is.
        edits: of the model's style; None: nothing is recommended.
    """
    absent = [name for name in DEFAULTS if getattr(request, name) is None]
    defaults = request.model_copy(update={str(name): DEFAULTS[name] for name in absent})
    version = versions[0]
    if edits is None or version.adapter is None or version.number is None:
        return CompleteRequest(defaults)
    found = edits.edits.over(version.adapter.manifest.style).recommended.model_dump(exclude_none=True)
    values: dict[Field, Any] = {name: found[name] for name in absent if name in found}
    if request.adapters:
        values.pop("scale", None)
    warnings: tuple[str, ...] = ()
    if (steps := values.get("steps", 0)) > (most := max_steps(version.bundle)):
        del values["steps"]
        warnings = (f"{steps} recommended steps left out: this base model takes at most {most}",)
    if not values:
        return CompleteRequest(defaults, None, warnings)
    applied = AppliedRecommendation(version=version.number, decision=edits.decision or None, fields=sorted(values))
    return CompleteRequest(defaults.model_copy(update={str(name): value for name, value in values.items()}), applied, warnings)
