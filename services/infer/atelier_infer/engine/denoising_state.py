"""One image on its way: its sampling parameters and its latents. `denoising_step.py` takes the steps."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from atelier_infer.arrays import Array
from atelier_infer.engine.denoising_task import DenoisingTask
from atelier_infer.errors import NonFiniteError
from atelier_infer.families.family import Conditioning
from atelier_infer.pipeline.adapter import WeightedAdapter
from atelier_infer.pipeline.bundle import Bundle
from atelier_infer.pipeline.noise import initial_noise
from atelier_infer.pipeline.schedulers import SchedulerName, make_scheduler
from atelier_infer.pipeline.tokenizer import TokenIds
from atelier_infer.pipeline.vae_decode import Pixels, decode


@dataclass(frozen=True)
class SamplingParams:
    """A checked request with every default filled in.

    Attributes:
        negative: not read when guidance_scale is 1 or less.
        width: px, a multiple of the bundle's size_multiple_px.
        height: px, likewise.
        guidance_until: fraction of the steps with guidance, in [0, 1]; rounded up to whole steps.
    """

    prompt: TokenIds
    negative: TokenIds
    steps: int
    guidance_scale: float
    seed: int
    width: int
    height: int
    scheduler: SchedulerName
    guidance_until: float = 1.0

    @property
    def guided_steps(self) -> int:
        """Steps with two rows, negative and prompt; the others have one."""
        return int(np.ceil(round(self.steps * self.guidance_until, 6))) if self.guidance_scale > 1 else 0


class DenoisingState(DenoisingTask):
    """The latents of one image between two steps.

    Notation: b rows (2 while guided: negative, then prompt; else 1), c latent channels, h and w latent height and width.

    Attributes:
        adapters: none for the base model, several for a blend.
        sample: float32 [1, c, h, w], the latents; set by `prepare`.
    """

    sample: Array

    def __init__(self, bundle: Bundle, adapters: Sequence[WeightedAdapter], params: SamplingParams) -> None:
        super().__init__()
        self.bundle, self.adapters, self.params, self._index = bundle, tuple(adapters), params, 0
        self._ranks = {adapter.digest: adapter.unet_rank for adapter, _ in self.adapters}
        self._scheduler = make_scheduler(params.scheduler, bundle.schedule, params.steps, params.seed)

    @property
    def bucket_key(self) -> Hashable:
        return id(self.bundle), self.params.width, self.params.height

    @property
    def rows(self) -> int:
        return 2 if self._index < self.params.guided_steps else 1

    @property
    def adapter_ranks(self) -> dict[str, int]:
        return self._ranks

    @property
    def steps(self) -> int:
        return self.params.steps

    @property
    def completed_steps(self) -> int:
        return self._index

    @property
    def predicted_x0(self) -> Array | None:
        """float32 [1, c, h, w], the scheduler's estimate of the final latents; None before the first step."""
        return self._scheduler.predicted_x0

    def prepare(self) -> None:
        """Encodes the prompts and generates the initial noise."""
        params, manifest = self.params, self.bundle.manifest
        size = params.width, params.height
        rows = [self.bundle.conditioning(params.prompt, self.adapters, *size)]
        if params.guided_steps:
            rows.insert(0, self.bundle.conditioning(params.negative, self.adapters, *size, negative=True))
        self._conditioning = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        height, width = params.height // manifest.vae_factor, params.width // manifest.vae_factor
        noise = initial_noise(params.seed, manifest.latent_channels, height, width)
        self.sample = noise * np.float32(self._scheduler.init_noise_sigma)

    def conditioning(self) -> Conditioning:
        """Of the next step, with a first dimension of b."""
        return {name: array[-self.rows :] for name, array in self._conditioning.items()}

    def model_input(self) -> Array:
        """float32 [b, c, h, w] for the next step."""
        return np.repeat(self._scheduler.scale_model_input(self.sample, self._index), self.rows, axis=0)

    def timestep(self) -> float:
        """Of the next step."""
        return float(self._scheduler.timesteps[self._index])

    def step(self, model_output: Array) -> None:
        """Applies guidance and the scheduler: output = negative + guidance_scale * (prompt - negative).

        Args:
            model_output: float32 [b, c, h, w], of the UNet.

        Raises:
            NonFiniteError: the latents are no longer finite.

        Source: arXiv:2207.12598 equation 6, with guidance_scale = 1 + w.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # checked below
            if self.rows == 2:
                model_output = model_output[:1] + self.params.guidance_scale * (model_output[1:] - model_output[:1])
            self.sample = self._scheduler.step(model_output, self._index, self.sample)
        self._index += 1
        if not np.isfinite(self.sample).all():
            raise NonFiniteError(
                f"step {self._index} of {self.params.steps} gave NaN or infinity, so there is no image; try another seed, a "
                "lower guidance_scale or another version"
            )

    def finish(self, keep_going: Callable[[], bool] = lambda: True) -> Pixels:
        return decode(self.bundle, self.sample, keep_going)
