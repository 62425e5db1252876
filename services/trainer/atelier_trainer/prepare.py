"""From images and captions to what the steps need: latents, text states, held-out data, the validation prompt's painter."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from atelier_trainer.base_model import Base
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.data.dataset import ImageDataset
from atelier_trainer.data.encode import (
    Augmentation,
    CachedLatents,
    CaptionEmbeddings,
    Latents,
    OnlineLatents,
    encode_captions,
    encode_images,
)
from atelier_trainer.graceful_stop import Stop
from atelier_trainer.tracking.progress import Bars
from atelier_trainer.tracking.validation_images import ImageSampler


@dataclass(frozen=True)
class Prepared:
    """The data set as the UNet sees it; VAE and text encoder are no longer needed, except by Fresh latents."""

    latents: Latents
    words: CaptionEmbeddings
    held_out: CachedLatents
    held_out_words: CaptionEmbeddings
    painter: ImageSampler | None


def prepare(
    options: TrainOptions, base: Base, fitted: ImageDataset, held_out: ImageDataset, width: int, height: int,
    accelerator: Accelerator, bars: Bars, stop: Stop,
) -> Prepared:  # fmt: skip
    """Encodes what no earlier run has encoded; every process calls it.

    Raises:
        DataError: an image cannot be read.
        Stopped: SIGTERM came; what is encoded is kept.
    """
    views = Augmentation(width, height, options.random_flip, 0 if options.center_crop else options.random_crops)
    cache_dir, device = Path(options.cache_dir).expanduser(), accelerator.device

    def progress(done: int, total: int) -> None:
        bars.encoded(done, total)
        stop.check()

    def kept(images: ImageDataset, views: Augmentation) -> CachedLatents:
        return encode_images(
            base, images, views, cache_dir, progress,
            device=device, crew=accelerator, threads=options.dataloader_num_workers,
        )  # fmt: skip

    latents: Latents
    if options.random_crops == 0 and not options.center_crop and fitted.leave_room(width, height):
        latents = OnlineLatents(base.vae().to(device), fitted, views, float(base.config("vae")["scaling_factor"]))
    else:
        latents = kept(fitted, views)
    validation = kept(held_out, Augmentation(width, height))
    captions = [*fitted.captions, *held_out.captions]
    words = encode_captions(base, captions, cache_dir, device=device, crew=accelerator)
    painter = None
    if options.validation_prompt is not None:
        prompt = encode_captions(base, [options.validation_prompt], cache_dir, device=device, crew=accelerator)
        painter = ImageSampler(base, prompt, width, height, options.num_validation_images, options.seed)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Prepared(
        latents,
        CaptionEmbeddings(words.states, words.caption[: len(fitted)], words.empty),
        validation,
        CaptionEmbeddings(words.states, words.caption[len(fitted) :], words.empty),
        painter,
    )
