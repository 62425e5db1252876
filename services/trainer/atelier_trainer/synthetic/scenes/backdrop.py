"""The ground and sky of a scene, style-free: bands of colour from the top down, and a few small marks on the ground."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from atelier_trainer.synthetic.scenes.geometry import Points, points, smooth
from atelier_trainer.synthetic.scenes.palette import RGB, TINTS
from atelier_trainer.synthetic.scenes.scene import Scene

STRIP = 0.13
"""Height of a band between two others, share of the canvas."""

_SKY_AND_LAND: dict[str, tuple[RGB, ...]] = {
    "meadow": ((214, 234, 246), (190, 220, 160)),
    "beach": ((216, 236, 248), (166, 208, 226), (246, 228, 186)),
    "snow": ((206, 220, 236), (242, 246, 250)),
    "sea": ((224, 238, 246), (156, 202, 226)),
    "night": ((98, 108, 156), (112, 136, 140)),
}
"""Colours from the top band to the lowest."""


@dataclass(frozen=True)
class Band:
    """A stretch of the backdrop, from its upper edge down to the bottom of the canvas.

    Attributes:
        edge: [n, 2] pixels from the left border to the right one; None for the topmost band.
        colour: its flat colour.
    """

    edge: Points | None
    colour: RGB


@dataclass(frozen=True)
class Backdrop:
    """Bands, each covering the lower part of the one before, and marks: short open lines [n, 2] in pixels."""

    bands: tuple[Band, ...]
    marks: tuple[Points, ...]


def backdrop_of(scene: Scene, side: float) -> Backdrop:
    """Lay out the backdrop of a scene on a canvas with the given side in pixels."""
    rng = np.random.default_rng([scene.seed, 2])
    if scene.ground == "plain":
        return Backdrop((Band(None, TINTS[int(rng.integers(len(TINTS)))]),), ())
    colours = _SKY_AND_LAND[scene.ground]
    wave = 0.004 if scene.ground in ("sea", "beach") else 0.03
    bands = [Band(None, colours[0])]
    for k, colour in enumerate(colours[1:]):
        level = scene.horizon + STRIP * k
        bands.append(Band(_edge(rng, level, wave if k == 0 else 0.02) * side, colour))
    lowest = scene.horizon + STRIP * (len(colours) - 2)
    return Backdrop(tuple(bands), tuple(mark * side for mark in _marks(rng, scene.ground, lowest)))


def _edge(rng: Generator, level: float, wave: float) -> Points:
    x = np.linspace(-0.02, 1.02, 6)
    y = level + rng.uniform(-wave, wave, x.size)
    return smooth(np.stack([x, y], axis=1), closed=False, per=8)


def _marks(rng: Generator, ground: str, top: float) -> list[Points]:
    """Tufts of grass, ripples, drifts or stars, whichever suits; unit canvas coordinates."""
    marks = []
    for _ in range(int(rng.integers(5, 9))):
        x, y = float(rng.uniform(0.04, 0.96)), float(rng.uniform(top + 0.05, 0.97))
        if ground == "meadow":
            marks.append(points((x - 0.016, y - 0.022), (x - 0.003, y), (x + 0.003, y), (x + 0.018, y - 0.026)))
        elif ground == "sea":
            marks.append(
                smooth([(x - 0.06, y), (x - 0.03, y - 0.01), (x, y), (x + 0.03, y - 0.01), (x + 0.06, y)], closed=False, per=3)
            )
        elif ground == "night":
            y = float(rng.uniform(0.03, top - 0.05))
            marks.append(points((x - 0.008, y), (x + 0.008, y)))
            marks.append(points((x, y - 0.008), (x, y + 0.008)))
        else:
            marks.append(smooth([(x - 0.05, y), (x, y - 0.008), (x + 0.05, y + 0.002)], closed=False, per=3))
    return marks
