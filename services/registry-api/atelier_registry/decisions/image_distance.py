"""How far two images are apart to the eye: what is where, and in which colours; a small shift counts for little.

A mean difference of pixels is no such measure: blank paper is nearer to a pencil drawing than the same drawing moved by four
pixels. Here each image becomes histograms of its edges' directions over overlapping cells, and a coarse grid of its colours;
the images are laid over each other where they fit best within a sixteenth of their side.

Sources: N. Dalal, B. Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005 (cells and directions);
C. Kuglin, D. Hines, "The Phase Correlation Image Alignment Method", 1975 (the shift).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]

SIDE_PX = 96
"""Images are compared at this size."""

MOST_SHIFT_PX = SIDE_PX // 16
CELLS, DIRECTIONS = 6, 9
COLOUR_CELLS = 6

BLANK_CONTRAST = 0.02
"""An image whose strongest edges are weaker than this share of black against white shows nothing."""


@dataclass(frozen=True)
class ImageFindings:
    """What a candidate's images show.

    Attributes:
        distances: to the champion's images, in their order; empty where there is no champion.
        blank: numbers of the images on which nothing is to be seen, from 1.
        prompt_distance: the least distance between two images that differ in the prompt alone; None without two such.
    """

    distances: tuple[float, ...]
    blank: tuple[int, ...]
    prompt_distance: float | None


def compare(ours: Sequence[bytes], theirs: Sequence[bytes], pairs: Sequence[tuple[int, int]]) -> ImageFindings:
    """Compares a candidate's images with the champion's and with each other.

    Args:
        ours: PNGs of the candidate.
        theirs: PNGs of the champion in the same order, or none.
        pairs: places of images that differ in the prompt alone.

    Raises:
        NotAnImageError: one of them is none.
    """
    images, others = [read(png) for png in ours], [read(png) for png in theirs]
    return ImageFindings(
        tuple(distance(one, other) for one, other in zip(images, others, strict=True)) if others else (),
        tuple(number for number, each in enumerate(images, 1) if is_blank(each)),
        min((distance(images[i], images[j]) for i, j in pairs), default=None),
    )


class NotAnImageError(ValueError):
    """The bytes are no image, or the two cannot be compared."""


def read(png: bytes) -> Array:
    """An image at the size of comparison, RGB float64 [SIDE_PX, SIDE_PX, 3], 0 to 1.

    Raises:
        NotAnImageError: it is none, or none of a sane size.
    """
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if max(image.size) > 4096:
                raise NotAnImageError(f"an image may have at most 4096 px a side; received {image.width} x {image.height}")
            small = image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise NotAnImageError(f"not an image: {type(error).__name__}") from error
    return np.asarray(small, np.float64) / 255


def is_blank(image: Array) -> bool:
    """Whether nothing is to be seen: hardly any edge, whatever the colour of the ground.

    Args:
        image: as `read` gives it.
    """
    magnitude, _ = _edges(image)
    return bool(np.quantile(magnitude, 0.995) < BLANK_CONTRAST)


def distance(one: Array, other: Array) -> float:
    """0 (the same to the eye) to 1 (nothing in common, or only one of them shows anything).

    Args:
        one: as `read` gives it.
        other: as `read` gives it.
    """
    blank = is_blank(one), is_blank(other)
    if blank[0] != blank[1]:
        return 1.0
    moved = one if blank[0] else _aligned(one, other)
    structure = 0.0 if blank[0] else _cosine_distance(_histograms(moved), _histograms(other))
    colour = np.abs(_grid(moved) - _grid(other)).mean(axis=(0, 1)).max()
    return float(np.clip(max(structure, min(1.0, 4 * colour)), 0, 1))


def _edges(image: Array) -> tuple[Array, Array]:
    """Strength and direction (0 to pi) of the strongest channel's edge at each pixel, both [SIDE_PX, SIDE_PX]."""
    vertical, horizontal = np.gradient(_smooth(image), axis=(0, 1))
    channel = np.hypot(vertical, horizontal).argmax(axis=2)[..., None]
    dy, dx = (np.take_along_axis(each, channel, 2)[..., 0] for each in (vertical, horizontal))
    return np.hypot(dy, dx), np.mod(np.arctan2(dy, dx), np.pi)


def _smooth(image: Array) -> Array:
    """Blurred over three pixels, so that grain is no edge."""
    for axis in (0, 1):
        padded = np.pad(image, [(1, 1) if each == axis else (0, 0) for each in range(3)], mode="edge")
        parts = [np.take(padded, range(start, start + SIDE_PX), axis) for start in range(3)]
        image = 0.25 * parts[0] + 0.5 * parts[1] + 0.25 * parts[2]
    return image


def _pool(cells: int) -> NDArray[Any]:
    """Weights [cells, SIDE_PX] of overlapping, bell-shaped windows along one side; each pixel's weights sum to 1."""
    centres = (np.arange(cells) + 0.5) * SIDE_PX / cells
    weights: NDArray[Any] = np.exp(-0.5 * ((np.arange(SIDE_PX) + 0.5 - centres[:, None]) / (0.6 * SIDE_PX / cells)) ** 2)
    return np.asarray(weights / weights.sum(axis=0))


def _histograms(image: Array) -> Array:
    """Edges by cell and direction, [CELLS * CELLS * DIRECTIONS]; strength counts by its root, so faint lines count, too."""
    magnitude, direction = _edges(image)
    strength = np.sqrt(np.where(magnitude < BLANK_CONTRAST / 2, 0, magnitude))
    place = direction / np.pi * DIRECTIONS
    lower = np.floor(place).astype(int) % DIRECTIONS
    share = place - np.floor(place)
    layers = np.zeros((DIRECTIONS, SIDE_PX, SIDE_PX))
    rows, columns = np.indices(magnitude.shape)
    layers[lower, rows, columns] += strength * (1 - share)
    layers[(lower + 1) % DIRECTIONS, rows, columns] += strength * share
    pool = _pool(CELLS)
    return np.asarray(np.einsum("ay,dyx,bx->abd", pool, layers, pool).ravel())


def _grid(image: Array) -> Array:
    """Mean colours over overlapping cells, [COLOUR_CELLS, COLOUR_CELLS, 3]."""
    pool = _pool(COLOUR_CELLS)
    pool = pool / pool.sum(axis=1, keepdims=True)
    return np.asarray(np.einsum("ay,yxc,bx->abc", pool, image, pool))


def _aligned(one: Array, other: Array) -> Array:
    """`one`, moved to where its edges fit those of `other` best, its border repeated."""
    transforms: list[Any] = [np.fft.fft2(_edges(each)[0]) for each in (one, other)]
    product = transforms[1] * transforms[0].conj()
    found = np.fft.ifft2(product / np.maximum(np.abs(product), 1e-9)).real
    reach = range(-MOST_SHIFT_PX, MOST_SHIFT_PX + 1)
    window = found[np.ix_(reach, reach)]
    down, right = (int(each) - MOST_SHIFT_PX for each in np.unravel_index(window.argmax(), window.shape))
    padded = np.pad(one, ((MOST_SHIFT_PX,) * 2, (MOST_SHIFT_PX,) * 2, (0, 0)), mode="edge")
    top, left = MOST_SHIFT_PX - down, MOST_SHIFT_PX - right
    return np.asarray(padded[top : top + SIDE_PX, left : left + SIDE_PX])


def _cosine_distance(one: Array, other: Array) -> float:
    """1 less their correlation: what all cells and directions have alike, such as the grain of a paper, says nothing."""
    one, other = one - one.mean(), other - other.mean()
    lengths = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return 1 - float(one @ other) / max(1e-12, lengths)
