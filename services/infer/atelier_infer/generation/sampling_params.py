"""Checks a request and turns it into sampling parameters with every default filled in."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from atelier_contracts.generate import GenerateRequest
from atelier_contracts.manifests import BundleManifest

from atelier_infer.engine.denoising_state import SamplingParams
from atelier_infer.engine.memory_budget import MemoryBudget
from atelier_infer.errors import ImageSizeError, StepsError
from atelier_infer.pipeline.bundle import Bundle
from atelier_infer.pipeline.schedulers import SchedulerName

SEEDS = 2**32


def with_seed(request: GenerateRequest) -> GenerateRequest:
    """The request with a random seed if it has none."""
    return request if request.seed is not None else request.model_copy(update={"seed": secrets.randbelow(SEEDS)})


def max_steps(bundle: Bundle) -> int:
    """Of a base model: those that it was trained with."""
    return bundle.schedule.num_train_timesteps - bundle.schedule.steps_offset


@dataclass(frozen=True)
class SamplingRules:
    """The service's own rules and defaults, besides those of a bundle.

    Attributes:
        scheduler: for requests that name none.
        max_side_px: largest width and height.
        memory: decides which sizes fit.
    """

    scheduler: SchedulerName
    max_side_px: int
    memory: MemoryBudget

    def apply(self, request: GenerateRequest, bundle: Bundle) -> tuple[list[SamplingParams], list[str]]:
        """Checks a request, which names seed, steps and guidance, against the rules and the bundle.

        Returns:
            Parameters per image, with ascending seeds, and warnings about prompts that were truncated.

        Raises:
            ImageSizeError: width or height breaks a rule, or can never fit the memory; a size is never rounded.
            StepsError: more steps than the base model was trained with.
        """
        native = bundle.manifest.native_size_px
        width, height = (native if side is None else side for side in (request.width, request.height))
        errors = [
            error
            for name, side in (("width", width), ("height", height))
            if (error := _side_error(name, side, bundle.manifest, self.max_side_px))
        ]
        if errors:
            raise ImageSizeError("; ".join(errors))
        self.memory.check_size(bundle, width, height)
        assert request.steps is not None and request.guidance_scale is not None  # see recommended_values
        if request.steps > (most := max_steps(bundle)):
            raise StepsError(f"steps must be at most {most} with this base model; received {request.steps}")
        tokens = {
            "prompt": bundle.tokenizer.encode(request.prompt),
            "negative_prompt": bundle.tokenizer.encode(request.negative_prompt),
        }
        warnings = [
            f"{name} truncated to {bundle.tokenizer.tokens} tokens: {encoded.dropped} dropped"
            for name, encoded in tokens.items()
            if encoded.dropped
        ]
        assert request.seed is not None  # see with_seed
        params = [
            SamplingParams(
                prompt=tokens["prompt"].ids,
                negative=tokens["negative_prompt"].ids,
                steps=request.steps,
                guidance_scale=request.guidance_scale,
                guidance_until=request.guidance_until,
                seed=(request.seed + index) % SEEDS,
                width=width,
                height=height,
                scheduler=request.scheduler or self.scheduler,
            )
            for index in range(request.n)
        ]
        return params, warnings


def _side_error(name: str, side: int, manifest: BundleManifest, max_side_px: int) -> str | None:
    multiple = manifest.size_multiple_px
    largest = max_side_px // multiple * multiple
    if side % multiple == 0 and 0 < side <= largest:
        return None
    below = side // multiple * multiple
    nearest = sorted({min(max(valid, multiple), largest) for valid in (below, below + multiple)})
    return (
        f"{name} must be a multiple of {multiple} px from {multiple} to {largest}; received {side}; nearest valid: "
        f"{' or '.join(str(valid) for valid in nearest)}"
    )
