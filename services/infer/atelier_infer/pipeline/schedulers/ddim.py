"""DDIM without added noise (eta = 0)."""

from __future__ import annotations

import math

import numpy as np

from atelier_infer.arrays import Array
from atelier_infer.pipeline.schedulers.schedule import Float64s, NoiseSchedule, split_output


class Ddim:
    """Deterministic sampling in VP form.

    Source: arXiv:2010.02502 equation 12 with sigma_t = 0.
    """

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        products = schedule.alphas_cumprod()
        self.timesteps: Float64s = np.round(schedule.spaced_timesteps(steps))
        self.init_noise_sigma = 1.0
        self.predicted_x0: Array | None = None
        self._kind = schedule.prediction_type
        stride = schedule.num_train_timesteps // steps
        last = 1.0 if schedule.set_alpha_to_one else float(products[0])
        here = self.timesteps.astype(int)
        self._now = products[here].tolist()
        self._next = [float(products[t - stride]) if t >= stride else last for t in here.tolist()]

    def scale_model_input(self, sample: Array, index: int) -> Array:
        """The sample itself: the UNet was trained on VP form."""
        return sample

    def step(self, output: Array, index: int, sample: Array) -> Array:
        """Moves to the noise level `stride` training steps down."""
        now, after = self._now[index], self._next[index]
        x0, noise = split_output(output, sample, math.sqrt(now), math.sqrt(1 - now), self._kind)
        self.predicted_x0 = x0
        return math.sqrt(after) * x0 + math.sqrt(1 - after) * noise
