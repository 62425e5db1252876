"""Encodes a data set once with the frozen VAE and text encoders; the result is cached by the content that it depends on.

The posterior's mean and standard deviation are cached, not a sample: each step samples again, so caching loses nothing.
Notation: n images, v variants of each (crops x flips), c h w latent shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.data.cache import TensorCache
from atelier_trainer.data.dataset import CENTER, Crop, ImageDataset
from atelier_trainer.data.encoded import Augmentation, CachedLatents, CaptionEmbeddings
from atelier_trainer.families.family import TextEncoderPart

LATENTS_FORMAT, CAPTIONS_FORMAT = "latents-2", "captions-2"
ENCODE_BATCH, CAPTION_BATCH = 16, 64
CROP_SEED = 11  # not the run's seed: runs with other seeds share the cache
Positions = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Encoder:
    """Encodes images and captions.

    Attributes:
        base: its models are loaded only when something has to be encoded, and released afterwards.
        cache: of the result.
        device: that the models run on.
        threads: that read images while others are encoded; 0 reads them in between.
    """

    base: BaseModel
    cache: TensorCache
    device: torch.device | str = "cpu"
    threads: int = 0

    def encode_images(
        self, images: ImageDataset, augmentation: Augmentation, on_progress: Callable[[int, int], None]
    ) -> CachedLatents:
        """Latents of the images, from the cache or the VAE; where no image is larger than the crop, there is one crop of each.

        Args:
            images: the images.
            augmentation: size, flip and crops.
            on_progress: called with images done and images in all.

        Raises:
            DataError: an image cannot be read.
        """
        positions = _crop_positions(images, augmentation)
        size = [augmentation.width, augmentation.height]
        key = [
            LATENTS_FORMAT,
            self.base.part_digest("vae"),
            images.image_digest(),
            *size,
            augmentation.flip,
            positions.tolist(),
        ]
        processes = self.cache.processes
        with ThreadPoolExecutor(self.threads) if self.threads else nullcontext() as pool:
            batches = _ImageBatches(self, images, augmentation, positions, pool)
            tensors = self.cache.get_or_build(
                "latents", key, -(-len(images) // ENCODE_BATCH), batches.encode,
                lambda done: on_progress(min(len(images), done * ENCODE_BATCH * processes.num_processes), len(images)),
            )  # fmt: skip
        on_progress(len(images), len(images))
        return CachedLatents(**tensors, scale=float(self.base.config("vae")["scaling_factor"]))

    def encode_captions(self, captions: Sequence[str], changed: Mapping[str, Any] | None = None) -> CaptionEmbeddings:
        """Conditioning of the captions, from the cache or the text encoders.

        Args:
            captions: of the images.
            changed: text encoders by part that are used instead of the base model's; what they give is not cached.
        """
        distinct = ["", *sorted(set(captions) - {""})]
        distinct_digest = hashlib.sha256("\0".join(distinct).encode()).hexdigest()
        family, parts = self.base.family, [name for one in self.base.family.text_encoders for name in (one.part, one.tokenizer)]
        key = [CAPTIONS_FORMAT, self.base.part_digest(*parts), distinct_digest]
        models: dict[str, tuple[Any, Any]] = {}

        def encode(number: int) -> dict[str, torch.Tensor]:
            batch = distinct[number * CAPTION_BATCH : (number + 1) * CAPTION_BATCH]
            outputs: dict[str, torch.Tensor] = {}
            for part in family.text_encoders:
                if part.part not in models:
                    text_encoder = (changed or {}).get(part.part) or self.base.load_text_encoder(part)
                    models[part.part] = self.base.load_tokenizer(part), text_encoder.to(self.device)
                encoded = encode_texts(part, *models[part.part], batch)
                outputs |= {f"{part.part}.{name}": one for name, one in zip(part.outputs, encoded, strict=True)}
            return outputs

        batches = -(-len(distinct) // CAPTION_BATCH)
        if changed:
            parts_of_all = [encode(number) for number in range(batches)]
            found = {name: torch.cat([one[name] for one in parts_of_all]) for name in parts_of_all[0]}
        else:
            found = self.cache.get_or_build("captions", key, batches, encode, lambda _: None)
        outputs = {part.part: tuple(found[f"{part.part}.{name}"] for name in part.outputs) for part in family.text_encoders}
        row_of = {text: row for row, text in enumerate(distinct)}
        rows = torch.tensor([row_of[text] for text in captions])
        return CaptionEmbeddings(family.conditioning(outputs), rows, self.base.zero_empty_negative)


class _ImageBatches:
    """Encodes the images batch by batch; the VAE is loaded at the first one."""

    def __init__(
        self,
        encoder: Encoder,
        images: ImageDataset,
        augmentation: Augmentation,
        positions: Positions,
        pool: ThreadPoolExecutor | None,
    ) -> None:
        self._encoder, self._images, self._augmentation = encoder, images, augmentation
        self._positions, self._pool = positions, pool
        self._vae: Any = None

    def encode(self, number: int) -> dict[str, torch.Tensor]:
        """`mean` and `std` of one batch, float32 [b, v, c, h, w], and `geometry`, float32 [b, v, 4]."""
        if self._vae is None:
            self._vae = self._encoder.base.load_vae().to(self._encoder.device)
        rows = range(number * ENCODE_BATCH, min((number + 1) * ENCODE_BATCH, len(self._images)))
        means, stds, places = [], [], []
        for crop in range(self._positions.shape[1]):
            for mirror in (False, True) if self._augmentation.flip else (False,):
                crops = [self._crop(row, crop, mirror) for row in rows]
                pixels = self._pixels(rows, crops)
                places.append(torch.tensor([self._images.geometry(row, one) for row, one in zip(rows, crops, strict=True)]))
                with torch.inference_mode():
                    posterior = self._vae.encode(torch.from_numpy(pixels).to(self._encoder.device)).latent_dist
                means.append(posterior.mean.cpu())
                stds.append(posterior.std.cpu())
        return {"mean": torch.stack(means, 1), "std": torch.stack(stds, 1), "geometry": torch.stack(places, 1).float()}

    def _crop(self, row: int, crop: int, mirror: bool) -> Crop:
        x, y = self._positions[row, crop].tolist()
        return Crop(self._augmentation.width, self._augmentation.height, mirror, (x, y))

    def _pixels(self, rows: range, crops: list[Crop]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """float32 [b, 3, height, width]."""
        read = self._images.pixels
        return np.stack(list(self._pool.map(read, rows, crops) if self._pool else map(read, rows, crops)))


def encode_texts(part: TextEncoderPart, tokenizer: Any, text_encoder: Any, texts: list[str]) -> tuple[torch.Tensor, ...]:
    """The text encoder's outputs on the CPU, float32 with a first dimension of len(texts)."""
    tokens = tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        outputs = part.encode(text_encoder, tokens.to(text_encoder.device))
    return tuple(output.cpu().clone() for output in outputs)


def _crop_positions(images: ImageDataset, augmentation: Augmentation) -> Positions:
    """`Crop.position` of each crop, float32 [n, crops, 2] in [0, 1]."""
    if not augmentation.crops or not images.any_larger_than(augmentation.width, augmentation.height):
        return np.full((len(images), 1, 2), CENTER, np.float32)
    generator = np.random.default_rng([CROP_SEED, augmentation.crops])
    return generator.random((len(images), augmentation.crops, 2), np.float32)
