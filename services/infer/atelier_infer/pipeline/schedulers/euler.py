"""Euler's method on the probability flow, in variance exploding form."""

from __future__ import annotations

import math

import numpy as np

from atelier_infer.arrays import Array
from atelier_infer.pipeline.schedulers.schedule import Float64s, NoiseSchedule, split_output


class Euler:
    """First order steps along the noise levels of the spaced training steps, down to 0.

    The sample is x0 + level * e; divided by sqrt(level^2 + 1) it is the VP form that the UNet was trained on.

    Source: arXiv:2206.00364 algorithm 1 without the second order correction, scaling of table 1 (VP column).
    """

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        levels = schedule.noise_levels()
        # linspace spacing gives fractions of a training step; float32 as everywhere such schedules are used
        self.timesteps: Float64s = schedule.spaced_timesteps(steps).astype(np.float32).astype(np.float64)
        spaced = np.interp(self.timesteps, np.arange(len(levels)), levels)
        self._levels: list[float] = [*spaced.tolist(), 0.0]
        top = max(self._levels)
        self.init_noise_sigma = math.sqrt(top**2 + 1) if schedule.timestep_spacing == "leading" else top
        self._kind = schedule.prediction_type
        self.predicted_x0: Array | None = None

    def scale_model_input(self, sample: Array, index: int) -> Array:
        """From variance exploding to VP form."""
        return sample / math.sqrt(self._levels[index] ** 2 + 1)

    def step(self, output: Array, index: int, sample: Array) -> Array:
        """Follows the direction d = (x - x0) / level, which is the predicted noise, to the next level."""
        level, following = self._levels[index], self._levels[index + 1]
        alpha = 1 / math.sqrt(level**2 + 1)
        self.predicted_x0, noise = split_output(output, sample * alpha, alpha, level * alpha, self._kind)
        return sample + (following - level) * noise
