"""Encode once: what the frozen VAE and text encoder make of a data set, kept on disk by the content it depends on.

The posterior's mean and standard deviation are kept, not a sample: each step draws anew, so nothing is lost by caching.
Notation: n images, v variants of each (crops x flips), c h w latent shape, s text tokens, d text width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from atelier_trainer.base_model import Base
from atelier_trainer.data.cache import ProcessGroup, SingleProcess, cached
from atelier_trainer.data.dataset import MIDDLE, ImageDataset

LATENTS_FORMAT, CAPTIONS_FORMAT = "latents-1", "captions-1"
ENCODE_BATCH, CAPTION_BATCH = 16, 64
CROP_SEED = 11  # not the run's seed: runs with other seeds share the cache
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Augmentation:
    """How an image becomes pixels.

    Attributes:
        width: px.
        height: px.
        flip: also its mirror image.
        crops: random crops of each image; 0 for the one in the middle.
    """

    width: int
    height: int
    flip: bool = False
    crops: int = 0


@dataclass(frozen=True)
class CaptionEmbeddings:
    """Text states, float32: `states` [different captions, s, d], `caption` int64 [n] each image's row, `empty` [s, d]."""

    states: torch.Tensor
    caption: torch.Tensor
    empty: torch.Tensor

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """States of these images' captions, [b, s, d]."""
        return self.states[self.caption[rows]]


class Latents(Protocol):
    """Where a step gets its latents from."""

    def __len__(self) -> int:
        """Images."""

    def sample(self, rows: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        """A new variant and a new posterior sample of each of these images, scaled, float32 [b, c, h, w]."""


@dataclass(frozen=True)
class CachedLatents:
    """Latents from the cache: `mean` and `std` float32 [n, v, c, h, w]; samples are multiplied by `scale`."""

    mean: torch.Tensor
    std: torch.Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.mean)

    def sample(self, rows: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        """See Latents."""
        variants = torch.randint(0, self.mean.shape[1], (len(rows),), generator=draw)
        mean, std = self.mean[rows, variants], self.std[rows, variants]
        return (mean + std * torch.randn(mean.shape, generator=draw)) * self.scale


@dataclass(frozen=True)
class OnlineLatents:
    """Latents encoded at each step, a new crop each time: the VAE stays loaded, which costs memory and time."""

    vae: Any
    images: ImageDataset
    views: Augmentation
    scale: float

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, rows: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        """See Latents."""
        places = torch.rand((len(rows), 2), generator=draw).tolist()
        mirrored = (torch.rand(len(rows), generator=draw) < (0.5 if self.views.flip else 0.0)).tolist()
        pixels = np.stack(
            [
                self.images.pixels(row, self.views.width, self.views.height, mirror, (x, y))
                for row, (x, y), mirror in zip(rows.tolist(), places, mirrored, strict=True)
            ]
        )
        with torch.no_grad():
            posterior = self.vae.encode(torch.from_numpy(pixels).to(self.vae.device)).latent_dist
        mean, std = posterior.mean.cpu(), posterior.std.cpu()
        return (mean + std * torch.randn(mean.shape, generator=draw)) * self.scale


def encode_images(
    base: Base,
    images: ImageDataset,
    views: Augmentation,
    cache_dir: Path,
    progress: Progress,
    *,
    device: torch.device | str = "cpu",
    crew: ProcessGroup | None = None,
    threads: int = 0,
) -> CachedLatents:
    """Encodes the images, or reads what an earlier run with the same images, views and VAE left.

    Args:
        base: its VAE is loaded only when something is to be encoded, and let go after.
        images: the images.
        views: size, flip and crops. Where no image leaves room for a crop, there is one.
        cache_dir: one file per content; written whole or not at all.
        progress: called with images done and images in all.
        device: where the VAE runs.
        crew: the processes that share the work.
        threads: that read images while others are encoded; 0 reads them in between.

    Raises:
        DataError: an image cannot be read.
    """
    places = _places(images, views)
    key = [
        LATENTS_FORMAT,
        base.part_digest("vae"),
        images.image_digest(),
        views.width,
        views.height,
        views.flip,
        places.tolist(),
    ]
    vae: Any = None
    pool = ThreadPoolExecutor(threads) if threads else None

    def part(number: int) -> dict[str, torch.Tensor]:
        nonlocal vae
        vae = vae if vae is not None else base.vae().to(device)
        rows = range(number * ENCODE_BATCH, min((number + 1) * ENCODE_BATCH, len(images)))
        means, stds = [], []
        for variant in range(places.shape[1]):
            for mirror in (False, True) if views.flip else (False,):

                def read(row: int, mirror: bool = mirror, variant: int = variant) -> Any:
                    x, y = places[row, variant].tolist()
                    return images.pixels(row, views.width, views.height, mirror, (x, y))

                pixels = np.stack(list(pool.map(read, rows) if pool else map(read, rows)))
                with torch.inference_mode():
                    posterior = vae.encode(torch.from_numpy(pixels).to(device)).latent_dist
                means.append(posterior.mean.cpu())
                stds.append(posterior.std.cpu())
        return {"mean": torch.stack(means, 1), "std": torch.stack(stds, 1)}

    crew = crew or SingleProcess()
    parts = -(-len(images) // ENCODE_BATCH)
    with pool or nullcontext():
        stored = cached(
            cache_dir, "latents", key, parts, part, crew,
            lambda done: progress(min(len(images), done * ENCODE_BATCH * crew.num_processes), len(images)),
        )  # fmt: skip
    progress(len(images), len(images))
    return CachedLatents(**stored, scale=float(base.config("vae")["scaling_factor"]))


def encode_captions(
    base: Base, captions: list[str], cache_dir: Path, *, device: torch.device | str = "cpu", crew: ProcessGroup | None = None
) -> CaptionEmbeddings:
    """Text states of the captions, or what an earlier run with the same captions and text encoder left."""
    different = ["", *sorted(set(captions) - {""})]
    listed = hashlib.sha256("\0".join(different).encode()).hexdigest()
    key = [CAPTIONS_FORMAT, base.part_digest("text_encoder", "tokenizer"), listed]
    models: list[Any] = []

    def part(number: int) -> dict[str, torch.Tensor]:
        if not models:
            models.extend((base.tokenizer(), base.text_encoder().to(device)))
        tokenizer, text_encoder = models
        return {
            "states": text_states(tokenizer, text_encoder, different[number * CAPTION_BATCH : (number + 1) * CAPTION_BATCH])
        }

    parts = -(-len(different) // CAPTION_BATCH)
    states = cached(cache_dir, "captions", key, parts, part, crew or SingleProcess(), lambda _: None)["states"]
    place = {text: row for row, text in enumerate(different)}
    return CaptionEmbeddings(states, torch.tensor([place[text] for text in captions]), states[0])


def text_states(tokenizer: Any, text_encoder: Any, captions: list[str]) -> torch.Tensor:
    """Last hidden states of the text encoder, float32 [b, s, d] on the CPU."""
    tokens = tokenizer(
        captions, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        states: torch.Tensor = text_encoder(tokens.to(text_encoder.device)).last_hidden_state
    return states.cpu().clone()


def _places(images: ImageDataset, views: Augmentation) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Where each crop lies, as shares of the room that there is: float32 [n, crops, 2] in [0, 1]."""
    if not views.crops or not images.leave_room(views.width, views.height):
        return np.full((len(images), 1, 2), MIDDLE, np.float32)
    draw = np.random.default_rng([CROP_SEED, views.crops])
    return draw.random((len(images), views.crops, 2), np.float32)
