"""Encode once: what the frozen VAE and text encoder make of a data set, kept on disk by the content it depends on.

The posterior's mean and standard deviation are kept, not a sample: each step draws anew, so nothing is lost by caching.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from atelier_trainer.base import Base
from atelier_trainer.pictures import Pictures

FORMAT = "encoded-1"
ENCODE_BATCH = 16


@dataclass(frozen=True)
class Encoded:
    """A data set as the UNet sees it.

    Attributes:
        mean: float32 [n, flips, c, h, w], the posterior's mean of each picture, and of its mirror image where asked for.
        std: like mean, the posterior's standard deviation.
        states: float32 [captions, tokens, d], one row per different caption.
        caption: int64 [n], the row of `states` of each picture.
        empty: float32 [tokens, d], the states of the empty prompt.
        scale: latents are multiplied by this.
    """

    mean: torch.Tensor
    std: torch.Tensor
    states: torch.Tensor
    caption: torch.Tensor
    empty: torch.Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.mean)


def encode(
    base: Base, pictures: Pictures, width: int, height: int, flip: bool, cache_dir: Path, progress: Callable[[int, int], None]
) -> Encoded:
    """Encodes the pictures, or reads what an earlier run with the same pictures, size and base left.

    Args:
        base: its VAE and text encoder are used in float32.
        pictures: the pictures.
        width: px.
        height: px.
        flip: also encode each picture's mirror image.
        cache_dir: one file per content; written whole or not at all.
        progress: called with pictures done and pictures in all.

    Raises:
        DataError: a picture cannot be read.
    """
    scale = float(base.pipeline.vae.config.scaling_factor)
    key = json.dumps([FORMAT, base.source, pictures.digest(), width, height, flip])
    file = cache_dir / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
    if file.exists():
        stored = load_file(file)
        progress(len(pictures), len(pictures))
        return Encoded(**stored, scale=scale)
    device = base.pipeline.vae.device
    means, stds = [], []
    with torch.inference_mode():
        for start in range(0, len(pictures), ENCODE_BATCH):
            rows = range(start, min(start + ENCODE_BATCH, len(pictures)))
            both = []
            for mirror in (False, True) if flip else (False,):
                pixels = np.stack([pictures.pixels(row, width, height, mirror) for row in rows])
                both.append(base.pipeline.vae.encode(torch.from_numpy(pixels).to(device)).latent_dist)
            means.append(torch.stack([posterior.mean for posterior in both], 1).cpu())
            stds.append(torch.stack([posterior.std for posterior in both], 1).cpu())
            progress(rows.stop, len(pictures))
        different = sorted(set(pictures.captions))
        states = torch.cat([text_states(base, different[i : i + 64]) for i in range(0, len(different), 64)])
        empty = text_states(base, [""])[0]
    place = {text: row for row, text in enumerate(different)}
    stored = {
        "mean": torch.cat(means).contiguous(),
        "std": torch.cat(stds).contiguous(),
        "states": states.contiguous(),
        "caption": torch.tensor([place[text] for text in pictures.captions]),
        "empty": empty.contiguous(),
    }
    cache_dir.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.part")
    save_file(stored, partial)
    partial.replace(file)
    return Encoded(**stored, scale=scale)


def text_states(base: Base, captions: list[str]) -> torch.Tensor:
    """Last hidden states of the text encoder, float32 [captions, tokens, d] on the CPU."""
    tokenizer, text_encoder = base.pipeline.tokenizer, base.pipeline.text_encoder
    tokens = tokenizer(
        captions, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    states: torch.Tensor = text_encoder(tokens.to(text_encoder.device)).last_hidden_state
    return states.cpu()
