"""Whole, in tiles, and small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atelier_contracts.manifests import BundleManifest
from atelier_infer.errors import CancelledJobError
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.bundle import Bundle, open_bundle
from atelier_infer.pipeline.vae_decode import decode, preview
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession


@pytest.fixture(scope="module")
def opened(bundle: tuple[Path, BundleManifest]) -> Bundle:
    return open_bundle(bundle[0], runtime=Runtime(intra_op_threads=1))


def latents(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 4, height, width)).astype(np.float32)


class Counting:
    """The decoder, and the sizes that it was given."""

    def __init__(self, decoder: InferenceSession) -> None:
        self.decoder = decoder
        self.sizes: list[Any] = []

    def run(self, outputs: None, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self.sizes.append(feeds["latents"].shape[2:])
        return self.decoder.run(outputs, feeds)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(2, 12))
def test_tiles_of_a_decoder_without_neighbours_are_the_whole(opened: Bundle, height: int, width: int, tile: int) -> None:
    """The tiny decoder looks at one latent per pixel, so every tile is right by itself, and so must be their blend."""
    whole = decode(replace(opened, decode_tile_px=10_000), latents(height, width))
    counting = Counting(opened.vae_decoder)
    tiled = decode(replace(opened, vae_decoder=counting, decode_tile_px=tile * 8), latents(height, width))  # type: ignore[arg-type]
    assert tiled.shape == (height * 8, width * 8, 3)
    assert np.abs(tiled.astype(int) - whole).max() <= 1
    assert all(max(size) <= max(tile, 2) for size in counting.sizes)


def test_seams_are_blended(opened: Bundle) -> None:
    """A decoder whose tiles differ in brightness: between two tiles it changes gently, never in one pixel."""

    class Moody:
        level = -1.0

        def run(self, outputs: None, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
            self.level += 0.25
            _, _, height, width = feeds["latents"].shape
            return [np.full((1, 3, height * 8, width * 8), self.level, np.float32)]

    pixels = decode(replace(opened, vae_decoder=Moody(), decode_tile_px=128), latents(16, 56)).astype(int)  # type: ignore[arg-type]
    assert np.abs(np.diff(pixels[:, :, 0], axis=1)).max() <= 3
    assert np.ptp(pixels) > 60


def test_up_to_the_limit_it_is_decoded_whole(opened: Bundle) -> None:
    counting = Counting(opened.vae_decoder)
    decode(replace(opened, vae_decoder=counting, decode_tile_px=128), latents(16, 16))  # type: ignore[arg-type]
    assert counting.sizes == [(16, 16)]
    decode(replace(opened, vae_decoder=counting, decode_tile_px=128), latents(16, 17))  # type: ignore[arg-type]
    assert set(counting.sizes[1:]) == {(16, 16)}


def test_it_can_be_cancelled_between_tiles(opened: Bundle) -> None:
    left = [True, True, False]
    counting = Counting(opened.vae_decoder)
    with pytest.raises(CancelledJobError):
        decode(replace(opened, vae_decoder=counting, decode_tile_px=64), latents(32, 32), lambda: left.pop(0))  # type: ignore[arg-type]
    assert len(counting.sizes) == 2


@pytest.mark.parametrize(
    ("side", "expected"), [((4, 6), (32, 48)), ((64, 64), (256, 256)), ((64, 32), (256, 128)), ((96, 96), (192, 192))]
)
def test_previews_are_small(opened: Bundle, side: tuple[int, int], expected: tuple[int, int]) -> None:
    assert preview(opened, latents(*side)).shape == (*expected, 3)
