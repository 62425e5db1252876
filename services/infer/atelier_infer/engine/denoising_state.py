"""One image on its way: what it is drawn with, and what has been drawn of it. `denoising_step.py` takes the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atelier_infer.arrays import Array
from atelier_infer.errors import NonFiniteError
from atelier_infer.pipeline.adapter import Adapter
from atelier_infer.pipeline.bundle import Bundle
from atelier_infer.pipeline.noise import initial_noise
from atelier_infer.pipeline.schedulers import SchedulerName, make_scheduler
from atelier_infer.pipeline.vae_decode import Pixels, decode


class WeightedAdapter(NamedTuple):
    """An adapter and what its own scale is multiplied with."""

    adapter: Adapter
    weight: float = 1.0


AdapterMix = Sequence[WeightedAdapter]
"""What one image is drawn with: no adapter, one, or a blend."""


@dataclass(frozen=True)
class SamplingParams:
    """What to draw, with every default settled and every rule checked.

    Attributes:
        prompt: int64 [s], token ids.
        negative: int64 [s]; not read when guidance_scale is 1 or less.
        width: px, a multiple of the bundle's size_multiple_px.
        height: px, likewise.
        guidance_until: part of the steps with guidance, in [0, 1]; rounded up to whole steps.
    """

    prompt: NDArray[np.int64]
    negative: NDArray[np.int64]
    steps: int
    guidance_scale: float
    seed: int
    width: int
    height: int
    scheduler: SchedulerName
    guidance_until: float = 1.0

    @property
    def guided_steps(self) -> int:
        """How many steps have two rows, negative and prompt; the others have one."""
        return int(np.ceil(round(self.steps * self.guidance_until, 6))) if self.guidance_scale > 1 else 0


class DenoisingState:
    """One image on its way. `begin`, steps until `done`, all from the engine's thread; then `finish`, from any thread.

    Notation: b rows (2 while guided: negative, then prompt; else 1), s text tokens, d text width, c latent channels, h and w
    latent height and width, r sum of the adapters' ranks.

    Attributes:
        bundle: what draws it.
        mix: with which adapters.
        parts: rank by adapter digest.
        key: drawings of the same key can share a step.
        sample: float32 [1, c, h, w].
    """

    def __init__(self, bundle: Bundle, mix: AdapterMix, plan: SamplingParams) -> None:
        self.bundle, self.mix, self.plan, self._index = bundle, tuple(mix), plan, 0
        self.parts = {adapter.digest: adapter.manifest.rank for adapter, _ in self.mix}
        self.key = (id(bundle), plan.width, plan.height)
        self._scheduler = make_scheduler(plan.scheduler, bundle.schedule, plan.steps, plan.seed)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.plan.steps

    @property
    def taken(self) -> int:
        """Steps taken."""
        return self._index

    @property
    def done(self) -> bool:
        """Whether every step was taken."""
        return self._index == self.plan.steps

    @property
    def rows(self) -> int:
        """Rows of the next step."""
        return 2 if self._index < self.plan.guided_steps else 1

    @property
    def predicted(self) -> Array | None:
        """float32 [1, c, h, w], the latents expected in the end; none before the first step."""
        return self._scheduler.predicted

    def begin(self) -> None:
        """Encodes the texts and draws the initial noise."""
        plan, manifest = self.plan, self.bundle.manifest
        texts = [plan.negative, plan.prompt] if plan.guided_steps else [plan.prompt]
        self._states = np.stack([self.bundle.texts.of(ids) for ids in texts])  # [1 or 2, s, d]
        height, width = plan.height // manifest.vae_factor, plan.width // manifest.vae_factor
        noise = initial_noise(plan.seed, manifest.latent_channels, height, width)
        self.sample = noise * np.float32(self._scheduler.init_noise_sigma)

    def states(self) -> Array:
        """float32 [b, s, d] for the next step."""
        return self._states[-self.rows :]

    def fed(self) -> Array:
        """float32 [b, c, h, w] for the next step."""
        return np.repeat(self._scheduler.scale_model_input(self.sample, self._index), self.rows, axis=0)

    def timestep(self) -> float:
        """Of the next step."""
        return float(self._scheduler.timesteps[self._index])

    def take(self, out: Array) -> None:
        """Takes the next step with the UNet's output.

        Guidance: out = negative + guidance_scale * (prompt - negative).

        Args:
            out: float32 [b, c, h, w].

        Raises:
            NonFiniteError: the sample is no longer finite.

        Source: arXiv:2207.12598 equation 6, with guidance_scale = 1 + w.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # looked for below
            if self.rows == 2:
                out = out[:1] + self.plan.guidance_scale * (out[1:] - out[:1])
            self.sample = self._scheduler.step(out, self._index, self.sample)
        self._index += 1
        if not np.isfinite(self.sample).all():
            raise NonFiniteError(
                f"step {self._index} of {self.plan.steps} gave NaN or infinity; nothing was drawn; another seed, a lower "
                "guidance_scale or another version may help"
            )

    def finish(self, proceed: Callable[[], bool] = lambda: True) -> Pixels:
        """Decodes the latents. See `decoding.decode`."""
        return decode(self.bundle, self.sample, proceed)
