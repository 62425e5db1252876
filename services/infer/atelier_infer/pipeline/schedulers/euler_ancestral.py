"""Euler's method that steps below the next noise level and adds fresh noise up to it."""

from __future__ import annotations

import math

import numpy as np

from atelier_infer.arrays import Array
from atelier_infer.pipeline.schedulers.euler import Euler
from atelier_infer.pipeline.schedulers.schedule import NoiseSchedule, split_output

FRESH = 1
"""Spawn key of the stream of added noise, so that it differs from the stream of the initial noise."""


class EulerAncestral(Euler):
    """Ancestral sampling along the levels of `Euler`. The added noise depends on the seed alone.

    Source: arXiv:2206.00364 section 4 (noise added along the way), with the split of the level into a deterministic part
    `down` and a random part `up`, down^2 + up^2 = next^2, from arXiv:2006.11239 equation 7 at eta = 1.
    """

    def __init__(self, schedule: NoiseSchedule, steps: int, seed: int = 0) -> None:
        super().__init__(schedule, steps)
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(FRESH,))))

    def noise(self, shape: tuple[int, ...]) -> Array:
        """The next standard normal numbers of this image, float32."""
        return self._generator.standard_normal(shape, dtype=np.float32)

    def step(self, output: Array, index: int, sample: Array) -> Array:
        """Follows the direction to `down`, then adds noise of standard deviation `up`."""
        level, following = self._levels[index], self._levels[index + 1]
        alpha = 1 / math.sqrt(level**2 + 1)
        self.predicted_x0, direction = split_output(output, sample * alpha, alpha, level * alpha, self._kind)
        up = math.sqrt(following**2 * (level**2 - following**2) / level**2)
        down = math.sqrt(following**2 - up**2)
        moved: Array = sample + (down - level) * direction
        return moved + np.float32(up) * self.noise(sample.shape)
