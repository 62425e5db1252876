"""DPM-Solver++ 2M on Karras' noise levels."""

from __future__ import annotations

import math

import numpy as np

from atelier_infer.arrays import Array
from atelier_infer.pipeline.schedulers.schedule import Float64s, NoiseSchedule, split_output

RHO = 7.0
"""Bends the spacing of the levels towards low noise. Source: arXiv:2206.00364 equation 5 and the text below it."""


class DpmSolver2MKarras:
    """Second order multistep solver of the data prediction, in VP form.

    With level = sigma / alpha the paper's lambda is -log(level), so exp(-h) is the ratio of two levels and nothing is
    infinite at the last level, which is 0.

    Source: arXiv:2211.01095 algorithm 2; levels: arXiv:2206.00364 equation 5 over the whole training range.
    """

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        trained = schedule.noise_levels()
        ramp = np.linspace(0, 1, steps)
        low, high = float(trained[0]) ** (1 / RHO), float(trained[-1]) ** (1 / RHO)
        levels = (high + ramp * (low - high)) ** RHO
        # the training step with the nearest level, interpolated on a logarithmic scale
        self.timesteps: Float64s = np.round(np.interp(np.log(levels), np.log(trained), np.arange(len(trained))))
        self.init_noise_sigma = 1.0
        self._levels: list[float] = [*levels.tolist(), 0.0]
        self._kind = schedule.prediction_type
        self.predicted_x0: Array | None = None

    def scale_model_input(self, sample: Array, index: int) -> Array:
        """The sample itself: the UNet was trained on VP form."""
        return sample

    def step(self, output: Array, index: int, sample: Array) -> Array:
        """Second order from the last two predictions; first order at the first step, which has one, and at the last, to 0."""
        level, following = self._levels[index], self._levels[index + 1]
        alpha, alpha_next = 1 / math.sqrt(level**2 + 1), 1 / math.sqrt(following**2 + 1)
        x0, _ = split_output(output, sample, alpha, level * alpha, self._kind)
        direction = x0
        if self.predicted_x0 is not None and following > 0:
            h, h_before = math.log(level / following), math.log(self._levels[index - 1] / level)
            direction = x0 + h / (2 * h_before) * (x0 - self.predicted_x0)
        self.predicted_x0 = x0
        sample_factor = (following * alpha_next) / (level * alpha)
        return sample_factor * sample + alpha_next * (1 - following / level) * direction
