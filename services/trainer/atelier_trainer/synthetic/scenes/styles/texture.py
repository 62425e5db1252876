"""Fields of smooth noise, computed once for each size and cut at a random place for each image.

Notation: every field is float32 [height, width] with mean 0 and standard deviation 1 where it is whole.
"""

from functools import cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]


def field(rng: Generator, size: int, cells_x: int, cells_y: int) -> Field:
    """A random cut [size, size] of smooth noise with this many bumps across and down."""
    return _cut(rng, _level_stock(size, cells_x, cells_y), size)


def slanted(rng: Generator, size: int) -> Field:
    """A random cut [size, size] of slanted brush marks."""
    return _cut(rng, _slanted_stock(size), size)


@cache
def grain(size: int) -> Field:
    """The tooth of drawing paper [size, size]: fine, with a little unevenness on a larger scale."""
    rng = np.random.default_rng([size, 11])
    fine = rng.standard_normal((size, size)).astype(np.float32)
    return _normal(0.5 * fine + _normal(np.asarray(_smooth(rng, size // 2, size // 2, size))))


def _cut(rng: Generator, stock: Field, size: int) -> Field:
    x, y = (int(v) for v in rng.integers(0, size + 1, 2))
    return stock[y : y + size, x : x + size]


@cache
def _level_stock(size: int, cells_x: int, cells_y: int) -> Field:
    """Twice as wide and high as an image, so that cuts of it differ."""
    rng = np.random.default_rng([size, cells_x, cells_y])
    return _normal(np.asarray(_smooth(rng, 2 * cells_x, 2 * cells_y, 2 * size)))


@cache
def _slanted_stock(size: int) -> Field:
    """Long marks, turned; the corners that turning leaves empty are cut away."""
    rng = np.random.default_rng([size, 7])
    turned = _smooth(rng, 14, 90, 4 * size).rotate(35, Image.Resampling.BILINEAR)
    return _normal(np.asarray(turned)[size : 3 * size, size : 3 * size])


def _smooth(rng: Generator, cells_x: int, cells_y: int, side: int) -> Image.Image:
    grid = rng.standard_normal((cells_y, cells_x)).astype(np.float32)
    return Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)


def _normal(raw: NDArray[np.float32]) -> Field:
    whole: Field = ((raw - raw.mean()) / raw.std()).astype(np.float32)
    return whole
