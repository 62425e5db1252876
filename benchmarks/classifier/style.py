"""A small network that tells pencil from paint, trained in seconds like the classifier of kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from classifier.scenes import SEED, LabelledScenes, network_pixels, render_labelled_scenes
from classifier.train import CACHE, Report, Settings, build_network, cache_key, fit, logits, save_network

STYLES = ("colour", "sketch")
"""The network's classes."""


@dataclass(frozen=True)
class StyleClassifier:
    """Judges by the strokes rather than the colours: it learnt from greyed and tinted images as well.

    Attributes:
        network: see `build_network`.
        accuracy: share of held-out scenes of both styles that are classified correctly.
        greyed_accuracy: the same after all colour was taken away.
    """

    network: nn.Module
    accuracy: float
    greyed_accuracy: float

    def sketches(self, images: Sequence[Image.Image]) -> list[bool]:
        """Whether each image (RGB, any size) looks like a sketch."""
        return [bool(score > 0) for score in logits(self.network, network_pixels(images), pencil_score)]


def pencil_score(cells: torch.Tensor) -> torch.Tensor:
    """[b, 2, c, c] to [b]: by how much pencil leads over paint; style is a matter of the whole image."""
    return (cells[:, 1] - cells[:, 0]).mean((1, 2))


def train_style_classifier(
    cache_dir: Path = CACHE, settings: Settings | None = None, report: Report = print
) -> StyleClassifier:
    """Trains the style classifier, or loads what an earlier call saved; arguments as in `train_kind_classifier`."""
    settings = settings or Settings(train_count=1600, held_out_count=100, epochs=10)
    file = cache_dir / f"style-{cache_key(settings, *STYLES)}.pt"
    if not file.exists():
        report(f"training the style classifier (kept in {file})")
        torch.manual_seed(SEED)
        train = _both_styles(SEED + 20, settings.train_count // 2)
        network = fit(_style_network(), train, settings, report, for_style=True)
        held_out = _both_styles(SEED + 21, settings.held_out_count)
        grey = held_out.pixels.mean(axis=3, keepdims=True).round().astype(np.uint8).repeat(3, axis=3)
        is_sketch = held_out.cells[:, 0, 0] == 1
        right = [float(((logits(network, pixels, pencil_score) > 0) == is_sketch).mean()) for pixels in (held_out.pixels, grey)]
        save_network(file, network, accuracy=right[0], greyed_accuracy=right[1])
    stored = torch.load(file, weights_only=True)
    network = _style_network()
    network.load_state_dict(stored["network"])
    return StyleClassifier(network.eval(), stored["accuracy"], stored["greyed_accuracy"])


def _style_network() -> nn.Sequential:
    return build_network(len(STYLES), width=12)


def _both_styles(seed: int, count: int) -> LabelledScenes:
    """As many scenes of either style, with one thing or two: on an empty ground there is nothing to tell."""
    parts = []
    for label, style in enumerate(STYLES):
        for things in (1, 2):
            one = render_labelled_scenes(style, seed + 10 * things, count // 2, things)
            parts.append(replace(one, cells=np.full_like(one.cells, label)))
    return LabelledScenes(
        *(np.concatenate([getattr(one, column) for one in parts]) for column in ("pixels", "cells", "present"))
    )
