"""Memory of a base model as a function of rows and pixels, fitted to measurements."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from pydantic import BaseModel, ConfigDict

SHRINK_FROM = 64 * 2**20
"""A session keeps less than this, because the next run would have to allocate it again."""

HEADROOM = 1.15
"""Factor on the measurements: runs vary, and larger sizes are extrapolated."""


class Cost(BaseModel):
    """bytes = fixed + rows * (per_px * px + per_px2 * px ** 2); the square is unfused attention.

    Attributes:
        measured_px: the largest rows * px that was measured.
    """

    model_config = ConfigDict(frozen=True)

    fixed: float
    per_px: float
    per_px2: float
    measured_px: int

    def bytes(self, rows: int, px: int) -> int:
        """In addition to resident_bytes."""
        return int(self.fixed + rows * (self.per_px * px + self.per_px2 * px**2))


class MemoryModel(BaseModel):
    """Of one base model with one provider.

    Attributes:
        resident_bytes: sessions, weights and mapped files.
        decode: one image at a time.
    """

    model_config = ConfigDict(frozen=True)

    resident_bytes: int
    step: Cost
    decode: Cost


def fit(points: Sequence[tuple[int, int, int]]) -> Cost:
    """Least squares of relative errors with non-negative coefficients, then raised until no point lies above.

    Args:
        points: rows, px, bytes; at least one.
    """
    rows, px, measured = (np.array(column, np.float64) for column in zip(*points, strict=True))
    measured = np.maximum(measured, 1.0)
    columns = np.stack([np.ones_like(px), rows * px, rows * px**2], axis=1)
    scale = columns.max(axis=0)
    best, best_error = np.array([0.0, (measured / (rows * px)).max(), 0.0]), np.inf
    for count in range(1, min(3, len(points)) + 1):
        for terms in combinations(range(3), count):
            matrix = columns[:, terms] / scale[list(terms)] / measured[:, np.newaxis]
            solution, *_ = np.linalg.lstsq(matrix, np.ones_like(measured), rcond=None)
            error = float(((matrix @ solution - 1) ** 2).sum())
            # a further term must at least halve the error, so that noise does not pass for a square
            if (solution >= 0).all() and 1 in terms and error < best_error * 0.5 - 1e-9:
                best, best_error = np.zeros(3), error
                best[list(terms)] = solution / scale[list(terms)]
    factor = max(1.0, float((measured / (columns @ best)).max())) * HEADROOM
    return Cost(fixed=best[0] * factor, per_px=best[1] * factor, per_px2=best[2] * factor, measured_px=int((rows * px).max()))
