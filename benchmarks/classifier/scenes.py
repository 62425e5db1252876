"""Training data of the classifiers: rendered scenes with the kinds in them, and their augmentation.

Notation: n images, b a batch, k the 18 kinds, SIDE the 64 px that the network sees, c the CELLS a side of its last map.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from atelier_trainer.synthetic.scenes.dataset import STYLES, render
from atelier_trainer.synthetic.scenes.scene import KINDS, Scene
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

SEED = 1000
"""First of the series for classifiers; base models and adapters train on series below it, prompts come from 2000 on."""
SIDE = 64
CELLS = 8
NOTHING = len(KINDS)
"""The class of a cell without a thing; the other classes are the places in KINDS."""
IGNORED = -1
"""Marks a cell at a thing's edge, where either answer would do."""
_CORE, _REACH = 0.3, 0.5  # of a thing's size: cells this near its middle show it, cells further than that do not
_RENDERED = 128  # the side that the generator draws, and that the tiny base draws
_EMPTY_EVERY = 20  # of the scenes with a mixed count, every so many-th is a ground without things
_CHUNK = 100


@dataclass(frozen=True)
class LabelledScenes:
    """Images and what is where in them.

    Attributes:
        pixels: uint8 [n, SIDE, SIDE, 3].
        cells: int64 [n, c, c], a class or IGNORED.
        present: bool [n, k].
    """

    pixels: NDArray[np.uint8]
    cells: NDArray[np.int64]
    present: NDArray[np.bool_]


def network_pixels(images: Sequence[Image.Image]) -> NDArray[np.uint8]:
    """Images of any size as input of the network: uint8 [n, SIDE, SIDE, 3]."""
    return np.stack([np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)) for image in images])


def render_labelled_scenes(style: str, seed: int, count: int, things: int | None) -> LabelledScenes:
    """Renders `count` scenes on all cores.

    Args:
        style: "colour" or "sketch".
        seed: the series.
        count: number of scenes.
        things: in each scene; None for one, two and three in equal parts and a few empty grounds.
    """
    jobs = [(style, seed, start, min(start + _CHUNK, count), things) for start in range(0, count, _CHUNK)]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        columns = zip(*pool.map(_chunk, jobs), strict=True)
        return LabelledScenes(*(np.concatenate(column) for column in columns))


def _chunk(job: tuple[str, int, int, int, int | None]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    style, seed, start, stop, things = job
    images, cells, present = [], [], []
    for index in range(start, stop):
        image, _, scene = render(seed, index, style, _RENDERED, count=things or 1 + index % 3)
        if things is None and index % _EMPTY_EVERY == 0:
            scene = replace(scene, things=())
            image = STYLES[style](scene, _RENDERED)
        images.append(image)
        cells.append(cells_of(scene))
        present.append([kind in scene.kinds for kind in KINDS])
    return network_pixels(images), np.stack(cells), np.array(present)


def cells_of(scene: Scene) -> NDArray[np.int64]:
    """The class of each cell, [c, c]."""
    middles = (np.arange(CELLS) + 0.5) / CELLS
    cells = np.full((CELLS, CELLS), NOTHING)
    # Edges first: a thing's core is never hidden by another's edge.
    for share, by_kind in ((_REACH, False), (_CORE, True)):
        for thing in scene.things:
            rows, columns = (np.abs(middles - at) < share * thing.size for at in (thing.cy, thing.cx))
            cells[np.ix_(rows, columns)] = KINDS.index(thing.kind) if by_kind else IGNORED
    return cells


def augment(pixels: NDArray[np.uint8], cells: NDArray[np.int64], for_style: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Distorts a batch at random, as a small model's images are distorted.

    Args:
        pixels: [b, SIDE, SIDE, 3].
        cells: [b, c, c].
        for_style: True where the cells say how an image is drawn: many are greyed or tinted, few are blurred.
            False where they say what is drawn: one image in eight becomes nonsense.

    Returns:
        float32 [b, 3, SIDE, SIDE], about 0 to 1, and the cells, int64 [b, c, c], moved along.
    """
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    marks = torch.from_numpy(cells).float()[:, None]
    b = len(batch)

    def between(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(b, *(shape or (1, 1, 1))) * (high - low) + low

    def some(share: float) -> torch.Tensor:
        return (torch.rand(b, 1, 1, 1) < share).float()

    # Place and size: mirrored or not, turned by 6 degrees, 15 % larger or smaller, moved by 4 px.
    angle, scale, mirror = between(-0.1, 0.1, 1), between(0.87, 1.15, 1), 1 - 2 * (torch.rand(b, 1) < 0.5).float()
    shift = between(-0.12, 0.12, 2)
    across = torch.cat([scale * mirror * angle.cos(), -scale * angle.sin(), shift[:, :1]], 1)
    down = torch.cat([scale * mirror * angle.sin(), scale * angle.cos(), shift[:, 1:]], 1)
    batch, marks = (
        F.grid_sample(
            plane,
            F.affine_grid(torch.stack([across, down], 1), list(plane.shape), align_corners=False),
            mode=mode,
            padding_mode="border",
            align_corners=False,
        )
        for plane, mode in ((batch, "bilinear"), (marks, "nearest"))
    )

    # A thing in an unusual colour is still that thing, and pencil is pencil on any paper.
    grey = batch.mean(1, keepdim=True).expand_as(batch)
    if for_style:
        batch = batch.lerp(grey, some(0.25)) * (1 - some(0.2) * between(0.0, 0.2, 3, 1, 1))
    else:
        batch = batch.lerp(grey, some(0.3) * between(0.3, 1.0))
        batch = batch.lerp(batch[:, torch.randperm(3)], some(0.15))
        eighth = -(-b // 8)
        batch[:eighth], marks[:eighth] = nonsense(batch[:eighth]), NOTHING
    batch = batch.lerp(blurred(batch), some(0.3 if for_style else 0.6) * between(0.0, 1.0))
    batch = (batch - 0.5) * between(0.75, 1.15) + 0.5 + between(-0.1, 0.1) + between(-0.05, 0.05, 3, 1, 1)
    batch = batch + torch.randn_like(batch) * between(0.0, 0.05)
    return batch.contiguous(memory_format=torch.channels_last), marks[:, 0].long()


def nonsense(batch: torch.Tensor) -> torch.Tensor:
    """Images without a thing, float32 [b, 3, SIDE, SIDE]: half of them cut into shuffled tiles, half of them noise."""
    half = len(batch) // 2
    return torch.cat([shuffled(batch[:half]), noise(len(batch) - half)])


def shuffled(batch: torch.Tensor) -> torch.Tensor:
    """Images cut into square tiles and put together in another order."""
    tile = 4 + 4 * int(torch.randint(2, ()))
    tiles = F.unfold(batch, tile, stride=tile)  # [b, 3 * tile * tile, tiles]
    return F.fold(tiles[:, :, torch.randperm(tiles.shape[2])], SIDE, tile, stride=tile)


def noise(count: int) -> torch.Tensor:
    """Blotches of random sizes, colours and strengths."""
    whole = torch.zeros(count, 3, SIDE, SIDE)
    for side in (4, 8, 16, 32, SIDE):
        blotches = torch.randn(count, 1, side, side) + torch.rand(count, 1, 1, 1) * torch.randn(count, 3, side, side)
        whole += torch.rand(count, 1, 1, 1) ** 2 * F.interpolate(blotches, (SIDE, SIDE), mode="bilinear")
    # Patches of weaker and stronger noise, as an untrained model generates them.
    strength = F.interpolate(torch.rand(count, 1, 5, 5), (SIDE, SIDE), mode="bilinear")
    middle = 0.4 + 0.5 * torch.rand(count, 3, 1, 1)
    return (middle + 0.35 * strength * whole).clamp(0.0, 1.0)


def blurred(batch: torch.Tensor) -> torch.Tensor:
    """Images [b, 3, SIDE, SIDE] blurred by a Gaussian of 1.1 px (2.2 px of an image of 128)."""
    taps = torch.exp(-0.5 * (torch.arange(-3, 4) / 1.1) ** 2)
    taps = (taps / taps.sum()).view(1, 1, 1, 7).repeat(3, 1, 1, 1)
    padded = F.pad(batch, (3, 3, 3, 3), mode="replicate")
    return F.conv2d(F.conv2d(padded, taps, groups=3), taps.transpose(2, 3), groups=3)


def transform_pixels(pixels: NDArray[np.uint8], how: Callable[[torch.Tensor], torch.Tensor]) -> NDArray[np.uint8]:
    """What `blurred` or `nonsense` makes of images [n, SIDE, SIDE, 3]."""
    batch = how(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    return (batch * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()  # type: ignore[no-any-return]
