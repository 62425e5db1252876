"""The interface that the denoising loop needs of a scheduler."""

from __future__ import annotations

from typing import Protocol

from atelier_infer.arrays import Array
from atelier_infer.pipeline.schedulers.schedule import Float64s, NoiseSchedule


class Scheduler(Protocol):
    """One sampling trajectory; holds the state of one image and is not shared.

    Notation: b batch, c latent channels, h and w latent height and width, n steps.

    Attributes:
        timesteps: float64 [n], decreasing, in [0, num_train_timesteps); integers except for Euler with linspace spacing.
        init_noise_sigma: factor of the standard normal noise before the first step.
        predicted_x0: float32 [b, c, h, w], estimate of the final latents from the last step; None before the first step.
    """

    timesteps: Float64s
    init_noise_sigma: float
    predicted_x0: Array | None

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None: ...

    def scale_model_input(self, sample: Array, index: int) -> Array:
        """The input of the UNet at step `index`; both float32 [b, c, h, w]."""
        ...

    def step(self, output: Array, index: int, sample: Array) -> Array:
        """The next sample; all float32 [b, c, h, w]. Called once per index, in order."""
        ...
