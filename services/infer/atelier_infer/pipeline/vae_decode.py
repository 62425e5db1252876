"""Latents to pixels with the VAE decoder: whole images, tiles, and previews."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from atelier_infer.arrays import Array
from atelier_infer.errors import CancelledJobError, NonFiniteError
from atelier_infer.onnx.session import run_graph
from atelier_infer.pipeline.bundle import Bundle
from atelier_infer.pipeline.memory_model import SHRINK_FROM

Pixels = NDArray[np.uint8]

OVERLAP = 0.25
"""Fraction of a tile that it shares with the next one; the two are blended there."""

PREVIEW_PX = 256
"""Approximate longest side of a preview."""


def decode(bundle: Bundle, latents: Array, keep_going: Callable[[], bool] = lambda: True) -> Pixels:
    """Decodes whole, or in tiles when a side is longer than the bundle's decode_tile_px.

    Args:
        bundle: its decoder is used.
        latents: float32 [1, c, h, w].
        keep_going: checked before each tile.

    Returns:
        uint8 [height, width, 3], x / 2 + 0.5 clipped to [0, 1] and rounded to 255 levels, halves to even.

    Raises:
        NonFiniteError: the decoder's output is not finite.
        GraphError: ONNX Runtime failed.
        CancelledJobError: `keep_going` returned False.
    """
    scaled = latents / np.float32(bundle.manifest.latent_scale)
    tile = max(2, bundle.decode_tile_px // bundle.manifest.vae_factor)
    whole = max(scaled.shape[2:]) <= tile
    image = _run(bundle, scaled, keep_going) if whole else _tiled(bundle, scaled, tile, keep_going)
    if not np.isfinite(image).all():
        raise NonFiniteError("the decoder gave NaN or infinity, so there is no image; try another seed or version")
    levels = np.clip(image[0] / 2 + np.float32(0.5), 0, 1).transpose(1, 2, 0) * 255  # [3, H, W] → [H, W, 3]
    pixels: Pixels = np.round(levels).astype(np.uint8)
    return pixels


def preview(bundle: Bundle, latents: Array) -> Pixels:
    """A small image of unfinished latents, which are averaged down to about PREVIEW_PX before decoding.

    Args:
        bundle: its decoder is used.
        latents: float32 [1, c, h, w].
    """
    longest = max(latents.shape[2:]) * bundle.manifest.vae_factor
    by = 2 ** max(0, int(np.ceil(np.log2(longest / PREVIEW_PX))))
    _, channels, height, width = latents.shape
    height, width = height // by * by, width // by * by
    cells = latents[:, :, :height, :width].reshape(1, channels, height // by, by, width // by, by)
    averaged: Array = cells.mean(axis=(3, 5), dtype=np.float32)
    return decode(bundle, averaged)


def _run(bundle: Bundle, scaled: Array, keep_going: Callable[[], bool]) -> Array:
    if not keep_going():
        raise CancelledJobError("the request was cancelled; send it again to generate the image")
    px = scaled.shape[2] * scaled.shape[3] * bundle.manifest.vae_factor**2
    large = bundle.memory is not None and bundle.memory.decode.bytes(1, px) >= SHRINK_FROM
    (image,) = run_graph(bundle.vae_decoder, {"latents": scaled}, shrink=large)
    return image


def _tiled(bundle: Bundle, scaled: Array, tile: int, keep_going: Callable[[], bool]) -> Array:
    """Tiles of one size, each weighted by a pyramid over its overlaps; the sum of weights is divided out."""
    factor, (height, width) = bundle.manifest.vae_factor, scaled.shape[2:]
    shared = max(1, round(tile * OVERLAP))
    image: Array = np.zeros((1, 3, height * factor, width * factor), np.float32)
    weights: Array = np.zeros(image.shape[2:], np.float32)
    for top in _starts(height, tile, shared):
        for left in _starts(width, tile, shared):
            part = scaled[:, :, top : top + tile, left : left + tile]
            decoded = _run(bundle, part, keep_going)
            ramps = [_ramp(side * factor, shared * factor) for side in part.shape[2:]]
            weight = ramps[0][:, np.newaxis] * ramps[1]  # [H, W] of the tile
            rows, columns = (slice(at * factor, at * factor + len(ramp)) for at, ramp in zip((top, left), ramps, strict=True))
            image[:, :, rows, columns] += decoded * weight
            weights[rows, columns] += weight
    blended: Array = image / weights
    return blended


def _starts(length: int, tile: int, shared: int) -> list[int]:
    """Offsets of the tiles: neighbours share at least `shared`, and the last one ends with the image."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - shared), length - tile]


def _ramp(length: int, shared: int) -> Array:
    """float32 [length], rising over the first `shared` pixels and falling over the last, never 0."""
    rising = np.minimum(np.arange(1, length + 1), shared) / shared
    return np.minimum(rising, rising[::-1]).astype(np.float32)
