"""From a request to a plan: every default settled, every rule checked."""

from __future__ import annotations

import secrets

from atelier_contracts.generate import GenerateRequest
from atelier_contracts.manifests import BundleManifest

from atelier_infer.engine.denoising_state import SamplingParams
from atelier_infer.engine.memory_account import MemoryAccount
from atelier_infer.errors import ImageSizeError, StepsError
from atelier_infer.pipeline.bundle import Bundle
from atelier_infer.pipeline.schedulers import SchedulerName

SEEDS = 2**32


def with_seed(wish: GenerateRequest) -> GenerateRequest:
    """The same request; where it names no seed, with one drawn at random."""
    return wish if wish.seed is not None else wish.model_copy(update={"seed": secrets.randbelow(SEEDS)})


def make_sampling_params(
    wish: GenerateRequest, bundle: Bundle, *, scheduler: SchedulerName, max_side_px: int, memory: MemoryAccount
) -> tuple[list[SamplingParams], list[str]]:
    """Checks a request, which has a seed, against the bundle that is to draw it.

    Returns:
        A plan per image, with rising seeds, and warnings about what could not be read of the prompts.

    Raises:
        ImageSizeError: width or height breaks a rule, or needs more memory than there is; a size is never rounded.
        StepsError: more steps than the base was trained with.
    """
    native = bundle.manifest.native_size_px
    width, height = (native if side is None else side for side in (wish.width, wish.height))
    sides = {"width": width, "height": height}
    faults = [fault for name, side in sides.items() if (fault := _side_fault(name, side, bundle.manifest, max_side_px))]
    if faults:
        raise ImageSizeError("; ".join(faults))
    memory.check_size(bundle, width, height)
    trained = bundle.schedule.num_train_timesteps
    if wish.steps > trained - bundle.schedule.steps_offset:
        raise StepsError(
            f"steps must be at most {trained - bundle.schedule.steps_offset} with this base; received {wish.steps}"
        )
    texts = {"prompt": bundle.prompts.read(wish.prompt), "negative_prompt": bundle.prompts.read(wish.negative_prompt)}
    warnings = [
        f"{name} cut: {tokens.dropped} tokens dropped, {bundle.manifest.text_tokens} are read"
        for name, tokens in texts.items()
        if tokens.dropped
    ]
    assert wish.seed is not None  # see with_seed
    plans = [
        SamplingParams(
            prompt=texts["prompt"].ids,
            negative=texts["negative_prompt"].ids,
            steps=wish.steps,
            guidance_scale=wish.guidance_scale,
            guidance_until=wish.guidance_until,
            seed=(wish.seed + index) % SEEDS,
            width=width,
            height=height,
            scheduler=wish.scheduler or scheduler,
        )
        for index in range(wish.n)
    ]
    return plans, warnings


def _side_fault(name: str, side: int, manifest: BundleManifest, max_side_px: int) -> str | None:
    multiple = manifest.size_multiple_px
    most = max_side_px // multiple * multiple
    if side % multiple == 0 and 0 < side <= most:
        return None
    below = side // multiple * multiple
    nearest = sorted({min(max(legal, multiple), most) for legal in (below, below + multiple)})
    return (
        f"{name} must be a multiple of {multiple} px from {multiple} to {most}; received {side}; nearest legal: "
        f"{' or '.join(str(legal) for legal in nearest)}"
    )
