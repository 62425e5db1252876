"""A thing as style-free geometry: an ordered list of parts that both styles draw, the last one on top."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from atelier_trainer.synthetic.scenes.scene import KINDS, Thing
from atelier_trainer.synthetic.scenes.shapes import animals as shapes_animals
from atelier_trainer.synthetic.scenes.shapes import figures as shapes_figures
from atelier_trainer.synthetic.scenes.shapes import nature as shapes_nature
from atelier_trainer.synthetic.scenes.shapes import objects as shapes_objects
from atelier_trainer.synthetic.scenes.shapes.parts import Part, Proportions

_MAKERS: dict[str, Callable[[Thing, Proportions], list[Part]]] = {
    **shapes_animals.MAKERS,
    **shapes_figures.MAKERS,
    **shapes_nature.MAKERS,
    **shapes_objects.MAKERS,
}


def parts_of(thing: Thing) -> list[Part]:
    """The parts of a thing in unit coordinates, mirrored when the thing is flipped.

    Together they are centred, and the longer side of the box around them is 1: a thing is as big as its `size` says.

    Raises:
        ValueError: the thing's kind is not one of `KINDS`.
    """
    if thing.kind not in _MAKERS:
        raise ValueError(f"a thing's kind must be among {', '.join(KINDS)}; received {thing.kind!r}: correct it")
    parts = _MAKERS[thing.kind](thing, Proportions(np.random.default_rng([thing.seed, 1])))
    every = np.concatenate([part.points for part in parts])
    low, high = every.min(axis=0), every.max(axis=0)
    scale = 1.0 / (high - low).max()
    stretch = np.array((-scale if thing.flip else scale, scale))
    return [replace(part, points=(part.points - (low + high) / 2) * stretch) for part in parts]


def placed(thing: Thing, side: float) -> list[Part]:
    """The parts of a thing in pixels of a canvas with the given side."""
    scale = thing.size * side
    middle = (thing.cx * side, thing.cy * side)
    return [replace(part, points=part.points * scale + middle) for part in parts_of(thing)]
