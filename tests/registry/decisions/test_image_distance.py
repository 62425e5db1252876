"""The measure tells blank paper, a moved drawing and another subject apart, in both styles of the images that we make."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from atelier_registry.decisions.image_distance import NotAnImageError, compare, distance, is_blank, read
from atelier_trainer.synthetic.scenes.dataset import render
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ..fake_infer_client import drawing, png

SIZE_PX = 128
STYLES = ("sketch", "colour")


def encoded(pixels: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "png")
    return stream.getvalue()


def image(style: str, index: int) -> NDArray[Any]:
    return np.asarray(render(1, index, style, SIZE_PX)[0])


def moved(pixels: NDArray[Any], down: int, right: int) -> NDArray[Any]:
    padded = np.pad(pixels, ((8, 8), (8, 8), (0, 0)), mode="edge")
    return padded[8 - down : 8 - down + SIZE_PX, 8 - right : 8 - right + SIZE_PX]


def between(one: NDArray[Any], other: NDArray[Any]) -> float:
    return distance(read(encoded(one)), read(encoded(other)))


@pytest.mark.parametrize("style", STYLES)
def test_distances_match_human_judgement(style: str) -> None:
    """Each line of the README's figures, on six scenes."""
    for index in range(6):
        one = image(style, index)
        paper = np.empty_like(one)
        paper[:] = np.median(one.reshape(-1, 3), axis=0).astype(np.uint8)
        grain = np.random.default_rng(index).normal(0, 6, one.shape)
        assert between(one, one) < 1e-9
        assert between(paper, one) == between(one, paper) == 1
        assert between(moved(one, 0, 4), one) < 0.05
        assert between(moved(one, -3, 4), one) < 0.05
        assert between(np.clip(one + grain, 0, 255).astype(np.uint8), one) < 0.05
        assert between(image(style, index + 100), one) > 0.2


@pytest.mark.parametrize("style", STYLES)
def test_a_mean_pixel_difference_does_not(style: str) -> None:
    """Why the measure exists: by pixels, blank paper is as near as the same image moved by four pixels."""

    def by_pixels(one: NDArray[Any], other: NDArray[Any]) -> Any:
        return np.abs(one.astype(float) - other).mean() / 255

    one = image(style, 0)
    paper = np.empty_like(one)
    paper[:] = np.median(one.reshape(-1, 3), axis=0).astype(np.uint8)
    assert by_pixels(paper, one) < 1.3 * by_pixels(moved(one, 0, 4), one)
    assert between(paper, one) > 20 * between(moved(one, 0, 4), one)


def test_blank_images_are_recognised() -> None:
    assert all(is_blank(read(png(level, 64))) for level in (0, 100, 255))
    assert not is_blank(read(drawing(0)))
    faint = np.full((64, 64, 3), 250, np.uint8)
    faint[::2] -= 2  # what an image of nothing looks like after a decoder
    assert is_blank(read(encoded(faint)))
    assert distance(read(png(0, 64)), read(png(255, 64))) == 1  # two blank papers of other colours
    assert distance(read(png(9, 64)), read(png(9, 64))) == 0


def test_images_are_compared_with_the_champion_and_each_other() -> None:
    found = compare([drawing(0), png(9, 64), drawing(0)], [drawing(0), drawing(0), drawing(90)], [(0, 2)])
    assert found.blank == (2,)
    assert found.distances[0] < 1e-9
    assert found.distances[1] == 1
    assert found.distances[2] > 0.3
    assert found.prompt_distance < 1e-9
    assert compare([drawing(0)], [], []) == compare([drawing(0)], [], [])
    assert compare([drawing(0)], [], []).distances == ()


def test_sizes_may_differ() -> None:
    assert distance(read(drawing(30, 64)), read(drawing(30, 256))) < 0.3


NOISE = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))


@given(st.binary(max_size=300) | st.integers(0, len(NOISE) // 2).map(lambda cut: NOISE[:cut]))
def test_bytes_that_are_not_an_image_are_refused(content: bytes) -> None:
    with pytest.raises(NotAnImageError):
        read(content)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_distance_is_between_zero_and_one(seed: int, other: int) -> None:
    one, two = (np.random.default_rng(each).integers(0, 256, (32, 32, 3)).astype(np.uint8) for each in (seed, other))
    assert 0 <= between_small(one, two) <= 1


def between_small(one: NDArray[Any], other: NDArray[Any]) -> float:
    return distance(read(encoded(one)), read(encoded(other)))
