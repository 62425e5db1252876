"""What the drawing loop needs of a scheduler."""

from __future__ import annotations

from typing import Protocol

from atelier_infer.arrays import Array
from atelier_infer.pipeline.schedulers.schedule import Float64s, NoiseSchedule


class Scheduler(Protocol):
    """One sampling trajectory. Holds the state of one drawing and is not shared.

    Notation: b batch, c latent channels, h and w latent height and width, n steps.

    Attributes:
        timesteps: float64 [n], falling, in [0, num_train_timesteps); whole numbers but for Euler with linspace spacing.
        init_noise_sigma: what standard normal noise is multiplied with before the first step.
        predicted: float32 [b, c, h, w], the image that the last step expected in the end; none before the first step.
    """

    timesteps: Float64s
    init_noise_sigma: float
    predicted: Array | None

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None: ...

    def scale_model_input(self, sample: Array, index: int) -> Array:
        """What the UNet is fed with at step `index`; float32 [b, c, h, w] both."""
        ...

    def step(self, output: Array, index: int, sample: Array) -> Array:
        """The next sample from the UNet's output at step `index`; float32 [b, c, h, w] all. Called once per index, in order."""
        ...
