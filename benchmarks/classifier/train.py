"""A small network that classifies the things in an image, trained in about a minute on scenes that nothing else trains on.

    scenes ── distorted ──> network ── greatest cell ──> scores ── threshold of each kind ──> names

Generated images are softer than the scenes it is trained on, so these are blurred, made noisy, tinted and shifted. To avoid
false positives it is also trained on empty grounds, on noise and on images cut into shuffled tiles: the right colours and
strokes in the wrong places. The scenes' layout is known, so the network learns the class of every cell, not only of the image;
that takes far fewer scenes.

Notation: n images, b a batch, k the 18 kinds, SIDE the 64 px that the network sees, c the CELLS a side of its last map.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from atelier_trainer.synthetic.scenes.dataset import render
from atelier_trainer.synthetic.scenes.scene import KINDS
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional as F

from classifier.scenes import (
    IGNORED,
    NOTHING,
    SEED,
    LabelledScenes,
    augment,
    blurred,
    network_pixels,
    nonsense,
    render_labelled_scenes,
    transform_pixels,
)

CACHE = Path(".cache/classifier")
Report = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How much is trained on what.

    Attributes:
        train_count: scenes with one, two and three things in equal parts.
        calibration_count: other scenes, on which the thresholds are chosen.
        held_out_count: further scenes with one thing, and as many with two, to measure the classifier itself.
        epochs: passes over the training scenes.
        batch: scenes in an optimizer step.
        learning_rate: the highest; it rises for a quarter of the steps and falls to nothing.
    """

    train_count: int = 3200
    calibration_count: int = 600
    held_out_count: int = 200
    epochs: int = 8
    batch: int = 50
    learning_rate: float = 4e-3


def build_network(outputs: int, width: int = 24) -> nn.Sequential:
    """Six convolutions: [b, 3, SIDE, SIDE], about 0 to 1, to the logits of each cell, [b, outputs, c, c].

    A cell sees 52 of the 64 px, the whole of even the largest things.
    """

    def block(inward: int, outward: int, kernel: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inward, outward, kernel, stride, 1, bias=False)
        return [convolution, nn.BatchNorm2d(outward), nn.ReLU(inplace=True)]

    return nn.Sequential(
        nn.BatchNorm2d(3),
        *block(3, width, 4, 2),  # 32 px
        *block(width, 2 * width, 3, 2),  # 16 px
        *block(2 * width, 2 * width, 3, 1),
        nn.MaxPool2d(2),  # 8 px
        *block(2 * width, 5 * width, 3, 1),
        *block(5 * width, 5 * width, 3, 1),
        nn.Conv2d(5 * width, outputs, 1),
    ).to(memory_format=torch.channels_last)


def max_over_cells(cells: torch.Tensor) -> torch.Tensor:
    """[b, k + 1, c, c] to [b, k]: a kind is in the image when it is in any cell.

    The score of a kind is the logit of its probability in the cell where that is greatest.
    """
    chances = cells.float().softmax(1)[:, :NOTHING].clamp(1e-6, 1 - 1e-6)
    return chances.amax((2, 3)).logit()


@dataclass(frozen=True)
class KindClassifier:
    """A trained network with its thresholds and its accuracy on held-out scenes.

    Attributes:
        network: see `build_network`; its classes are the kinds and NOTHING.
        thresholds: float32 [k], logits; a kind counts as detected from there on.
        figures: shares of held-out scenes with one and two things, see `accuracy`; of nonsense in which something is detected;
            and `trained_s`, the seconds that all of it took.
    """

    network: nn.Module
    thresholds: NDArray[np.float32]
    figures: dict[str, float]

    def detect(self, images: Sequence[Image.Image]) -> list[set[str]]:
        """The kinds detected in each image (RGB, any size)."""
        return kind_names(logits(self.network, network_pixels(images)) >= self.thresholds)


def _kinds_network() -> nn.Sequential:
    return build_network(len(KINDS) + 1)


def kind_names(detected: NDArray[np.bool_]) -> list[set[str]]:
    """Rows [n, k] as sets of kinds."""
    return [{kind for kind, here in zip(KINDS, row, strict=True) if here} for row in detected]


def train_kind_classifier(
    style: str, cache_dir: Path = CACHE, settings: Settings | None = None, report: Report = print
) -> KindClassifier:
    """Trains the classifier of one style, or loads what an earlier call saved.

    Args:
        style: "colour" or "sketch".
        cache_dir: one file for each style, settings, version of this code and version of the generator.
        settings: None for the usual ones.
        report: gets lines of progress.
    """
    settings = settings or Settings()
    file = cache_dir / f"{style}-{cache_key(settings, style)}.pt"
    if not file.exists():
        started = time.monotonic()
        torch.manual_seed(SEED)
        report(f"training the {style} classifier (saved in {file})")
        train = render_labelled_scenes(style, SEED, settings.train_count, None)
        report(f"  rendered {settings.train_count} scenes in {time.monotonic() - started:.0f} s")
        network = fit(_kinds_network(), train, settings, report)
        calibration = render_labelled_scenes(style, SEED + 1, settings.calibration_count, None)
        thresholds = choose_thresholds(network, calibration)
        figures: dict[str, float] = {}
        for things, word in ((1, "one"), (2, "two")):
            held_out = render_labelled_scenes(style, SEED + 1 + things, settings.held_out_count, things)
            figures |= {f"{word}_{key}": value for key, value in accuracy(network, thresholds, held_out).items()}
        absurd = replace(held_out, pixels=transform_pixels(held_out.pixels, nonsense), present=np.zeros_like(held_out.present))
        figures["nonsense_false_positive"] = accuracy(network, thresholds, absurd)["false_positive"]
        figures["trained_s"] = round(time.monotonic() - started, 1)
        report(f"  trained in {figures['trained_s']:.0f} s")
        save_network(file, network, thresholds=torch.from_numpy(thresholds), figures=figures)
    stored = torch.load(file, weights_only=True)
    network = _kinds_network()
    network.load_state_dict(stored["network"])
    return KindClassifier(network.eval(), stored["thresholds"].numpy(), stored["figures"])


def fit(network: nn.Module, train: LabelledScenes, settings: Settings, report: Report, for_style: bool = False) -> nn.Module:
    """Minimizes the cross-entropy of the cells that are not IGNORED; returns the network in evaluation mode.

    Args:
        network: its outputs are the classes in `train.cells`.
        train: training data.
        settings: how long and how fast.
        report: gets lines of progress.
        for_style: see `augment`.
    """
    rng = np.random.default_rng(SEED)
    steps = settings.epochs * (len(train.pixels) // settings.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=0.02)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, steps, pct_start=0.25)
    network.train()
    for epoch in range(settings.epochs):
        order = rng.permutation(len(train.pixels))
        losses = []
        for start in range(0, len(order) - settings.batch + 1, settings.batch):
            rows = order[start : start + settings.batch]
            generated, classes = augment(train.pixels[rows], train.cells[rows], for_style)
            with torch.autocast("cpu", torch.bfloat16):
                cells = network(generated)
            if for_style:  # an empty corner tells nothing: the whole image is judged
                cells, classes = cells.mean((2, 3)), classes[:, 0, 0]
            loss = F.cross_entropy(cells.float(), classes, ignore_index=IGNORED)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            rate.step()
            losses.append(loss.item())
        report(f"  epoch {epoch + 1}/{settings.epochs}: loss {np.mean(losses):.4f}")
    return network.eval()


@torch.inference_mode()  # type: ignore[untyped-decorator]
def logits(
    network: nn.Module, pixels: NDArray[np.uint8], pool: Callable[[torch.Tensor], torch.Tensor] = max_over_cells
) -> NDArray[np.float32]:
    """Scores of images [n, SIDE, SIDE, 3]: what `pool` makes of their cells."""
    scores = []
    for start in range(0, len(pixels), 100):
        batch = torch.from_numpy(pixels[start : start + 100]).permute(0, 3, 1, 2) / 255
        scores.append(pool(network(batch)))
    return np.asarray(torch.cat(scores))


def choose_thresholds(network: nn.Module, scenes: LabelledScenes) -> NDArray[np.float32]:
    """Chooses the threshold of each kind on the scenes, on blurred copies and on nonsense.

    A threshold maximises the share of true positives less ten times that of false ones: a hit must mean something.
    Among equals it is the middle one, and it never leaves a probability of 0.3 to 0.97.
    """
    pixels = [scenes.pixels, transform_pixels(scenes.pixels, blurred), transform_pixels(scenes.pixels, nonsense)]
    scores = np.concatenate([logits(network, part) for part in pixels])
    present = np.concatenate([scenes.present, scenes.present, np.zeros_like(scenes.present)])
    candidates = np.linspace(np.log(0.3 / 0.7), np.log(0.97 / 0.03), 81, dtype=np.float32)
    thresholds = []
    for scored, here in zip(scores.T, present.T, strict=True):
        detected = scored[:, None] >= candidates  # [3 n, candidates]
        worth = detected[here].mean(axis=0) - 10 * detected[~here].mean(axis=0)
        thresholds.append(np.median(candidates[worth >= worth.max() - 1e-9]))
    return np.array(thresholds, dtype=np.float32)


def accuracy(network: nn.Module, thresholds: NDArray[np.float32], scenes: LabelledScenes) -> dict[str, float]:
    """Accuracy on labelled scenes.

    Returns:
        `hit`: share of images in which every kind is detected; `exact`: and nothing else; `false_positive`: share in which
        a kind is detected that is not there.
    """
    detected = logits(network, scenes.pixels) >= thresholds
    is_hit = (detected | ~scenes.present).all(axis=1)
    false_positive = (detected & ~scenes.present).any(axis=1)
    shares = {"hit": is_hit, "exact": is_hit & ~false_positive, "false_positive": false_positive}
    return {key: float(share.mean()) for key, share in shares.items()}


def cache_key(settings: Settings, *styles: str) -> str:
    """Changes with the settings, this code and the scene generator, so that a stale classifier is never used."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for file in ("train.py", "scenes.py", "style.py"):
        digest.update((Path(__file__).parent / file).read_bytes())
    for style in styles:
        for first in range(0, len(KINDS), 3):
            image, _, scene = render(SEED, first, style, 128, kinds=KINDS[first : first + 3], count=3)
            digest.update(image.tobytes() + repr(scene).encode())
    return digest.hexdigest()[:16]


def save_network(file: Path, network: nn.Module, **more: Any) -> None:
    """Written atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    torch.save({"network": network.state_dict(), **more}, partial)
    partial.replace(file)
