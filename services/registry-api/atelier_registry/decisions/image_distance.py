"""Perceptual distance between two images: what is where, and in which colours. A small shift changes little.

A mean pixel difference is no such measure: it puts blank paper nearer to a pencil drawing than the same drawing shifted by four
pixels. Here an image becomes histograms of edge directions over overlapping cells, and a coarse grid of colours; the images are
aligned first, by at most a sixteenth of their side.

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
"""Side of the images at comparison."""

MAX_SHIFT_PX = SIDE_PX // 16
CELLS, DIRECTIONS = 6, 9
COLOUR_CELLS = 6

BLANK_CONTRAST = 0.02
"""An image is blank where its strongest edges have less contrast than this share of black against white."""


@dataclass(frozen=True)
class ImageComparison:
    """A candidate's images, compared.

    Attributes:
        distances: to the champion's images, in their order; empty without a champion.
        blank: numbers of the blank images, from 1.
        prompt_distance: smallest distance between two images that differ only in the prompt; None without such a pair.
    """

    distances: tuple[float, ...]
    blank: tuple[int, ...]
    prompt_distance: float | None


def compare(candidate: Sequence[bytes], champion: Sequence[bytes], prompt_pairs: Sequence[tuple[int, int]]) -> ImageComparison:
    """Compares a candidate's images with the champion's and with each other.

    Args:
        candidate: its PNGs.
        champion: its PNGs in the same order, or none.
        prompt_pairs: indices of the candidate's images that differ only in the prompt.

    Raises:
        NotAnImageError: one of them is no image.
    """
    images, champion_images = [read(png) for png in candidate], [read(png) for png in champion]
    pairs = zip(images, champion_images, strict=True) if champion_images else ()
    return ImageComparison(
        distances=tuple(distance(image, other) for image, other in pairs),
        blank=tuple(number for number, image in enumerate(images, 1) if is_blank(image)),
        prompt_distance=min((distance(images[i], images[j]) for i, j in prompt_pairs), default=None),
    )


class NotAnImageError(ValueError):
    """The bytes are not a PNG of an accepted size."""


def read(png: bytes) -> Array:
    """Decodes a PNG at the size of comparison: RGB float64 [SIDE_PX, SIDE_PX, 3], 0 to 1.

    Raises:
        NotAnImageError: it is not a PNG, or has more than 4096 px a side.
    """
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if max(image.size) > 4096:
                raise NotAnImageError(f"an image must have at most 4096 px a side; received {image.width} x {image.height}")
            small = image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise NotAnImageError(f"not an image: {type(error).__name__}") from error
    return np.asarray(small, np.float64) / 255


def is_blank(image: Array) -> bool:
    """Whether an image from `read` has hardly any edge, whatever its colour."""
    magnitude, _ = _edges(image)
    return bool(np.quantile(magnitude, 0.995) < BLANK_CONTRAST)


def distance(one: Array, other: Array) -> float:
    """Between two images from `read`: 0 (they look the same) to 1 (nothing in common, or only one of them is blank)."""
    blank = is_blank(one), is_blank(other)
    if blank[0] != blank[1]:
        return 1.0
    aligned = one if blank[0] else _align(one, other)
    structure = 0.0 if blank[0] else _correlation_distance(_histograms(aligned), _histograms(other))
    colour = np.abs(_grid(aligned) - _grid(other)).mean(axis=(0, 1)).max()
    return float(np.clip(max(structure, min(1.0, 4 * colour)), 0, 1))


def _edges(image: Array) -> tuple[Array, Array]:
    """Strength and direction (0 to pi) of the strongest channel's edge at each pixel, both [SIDE_PX, SIDE_PX]."""
    vertical, horizontal = np.gradient(_smooth(image), axis=(0, 1))
    channel = np.hypot(vertical, horizontal).argmax(axis=2)[..., None]
    dy, dx = (np.take_along_axis(each, channel, 2)[..., 0] for each in (vertical, horizontal))
    return np.hypot(dy, dx), np.mod(np.arctan2(dy, dx), np.pi)


def _smooth(image: Array) -> Array:
    """Blurs over three pixels, so that grain makes no edges."""
    for axis in (0, 1):
        padded = np.pad(image, [(1, 1) if each == axis else (0, 0) for each in range(3)], mode="edge")
        parts = [np.take(padded, range(start, start + SIDE_PX), axis) for start in range(3)]
        image = 0.25 * parts[0] + 0.5 * parts[1] + 0.25 * parts[2]
    return image


def _pool(cells: int) -> NDArray[Any]:
    """Weights [cells, SIDE_PX] of overlapping bell-shaped windows along one side; the weights of each pixel sum to 1."""
    centres = (np.arange(cells) + 0.5) * SIDE_PX / cells
    weights: NDArray[Any] = np.exp(-0.5 * ((np.arange(SIDE_PX) + 0.5 - centres[:, None]) / (0.6 * SIDE_PX / cells)) ** 2)
    return np.asarray(weights / weights.sum(axis=0))


def _histograms(image: Array) -> Array:
    """Edges by cell and direction, [CELLS * CELLS * DIRECTIONS]. Strengths count by their root, so that faint lines matter."""
    magnitude, direction = _edges(image)
    strength = np.sqrt(np.where(magnitude < BLANK_CONTRAST / 2, 0, magnitude))
    position = direction / np.pi * DIRECTIONS
    lower = np.floor(position).astype(int) % DIRECTIONS
    share = position - np.floor(position)
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


def _align(one: Array, other: Array) -> Array:
    """`one`, shifted so that its edges match those of `other` best; its border is repeated."""
    transforms: list[Any] = [np.fft.fft2(_edges(each)[0]) for each in (one, other)]
    product = transforms[1] * transforms[0].conj()
    correlation = np.fft.ifft2(product / np.maximum(np.abs(product), 1e-9)).real
    reach = range(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1)
    window = correlation[np.ix_(reach, reach)]
    down, right = (int(each) - MAX_SHIFT_PX for each in np.unravel_index(window.argmax(), window.shape))
    padded = np.pad(one, ((MAX_SHIFT_PX,) * 2, (MAX_SHIFT_PX,) * 2, (0, 0)), mode="edge")
    top, left = MAX_SHIFT_PX - down, MAX_SHIFT_PX - right
    return np.asarray(padded[top : top + SIDE_PX, left : left + SIDE_PX])


def _correlation_distance(one: Array, other: Array) -> float:
    """1 - correlation: what all cells and directions have in common, such as paper grain, does not count."""
    one, other = one - one.mean(), other - other.mean()
    lengths = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return 1 - float(one @ other) / max(1e-12, lengths)
