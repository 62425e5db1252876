"""What a base needs in memory, as a function of rows and pixels, fitted to what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from pydantic import BaseModel, ConfigDict

SHRINK_FROM = 64 * 2**20
"""What a session keeps less than this is not given back: the next run would have to ask for it again."""

HEADROOM = 1.15
"""What is measured is raised by so much: runs differ, and what was not measured is extrapolated."""


class Cost(BaseModel):
    """bytes = fixed + rows * (per_px * px + per_px2 * px ** 2); the last part is attention that holds all scores.

    Attributes:
        measured_px: the most rows * px that was measured; beyond that it is extrapolated.
    """

    model_config = ConfigDict(frozen=True)

    fixed: float
    per_px: float
    per_px2: float
    measured_px: int

    def bytes(self, rows: int, px: int) -> int:
        """Beyond what the base takes at rest."""
        return int(self.fixed + rows * (self.per_px * px + self.per_px2 * px**2))


class MemoryModel(BaseModel):
    """Of one base with one provider.

    Attributes:
        resident_bytes: sessions, weights and what was mapped of files.
        step: of the UNet.
        decode: of the decoder, one image at a time.
    """

    model_config = ConfigDict(frozen=True)

    resident_bytes: int
    step: Cost
    decode: Cost


def fit(points: Sequence[tuple[int, int, int]]) -> Cost:
    """The cost whose parts are not negative and that is nearest to the points, each weighed by its size; none is above it.

    Args:
        points: rows, px, bytes; at least one.
    """
    rows, px, measured = (np.array(column, np.float64) for column in zip(*points, strict=True))
    measured = np.maximum(measured, 1.0)
    columns = np.stack([np.ones_like(px), rows * px, rows * px**2], axis=1)
    scale = columns.max(axis=0)
    best, best_miss = np.array([0.0, (measured / (rows * px)).max(), 0.0]), np.inf
    for count in range(1, min(3, len(points)) + 1):
        for chosen in combinations(range(3), count):
            some = columns[:, chosen] / scale[list(chosen)] / measured[:, np.newaxis]
            found, *_ = np.linalg.lstsq(some, np.ones_like(measured), rcond=None)
            miss = float(((some @ found - 1) ** 2).sum())
            # a further part must explain something: noise does not make a square
            if (found >= 0).all() and 1 in chosen and miss < best_miss * 0.5 - 1e-9:
                best, best_miss = np.zeros(3), miss
                best[list(chosen)] = found / scale[list(chosen)]
    above = max(1.0, float((measured / (columns @ best)).max())) * HEADROOM
    return Cost(fixed=best[0] * above, per_px=best[1] * above, per_px2=best[2] * above, measured_px=int((rows * px).max()))
