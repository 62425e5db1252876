"""From pictures and captions to what the steps need: latents, text states, held-out data, the validation prompt's painter."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from atelier_trainer.base import Base
from atelier_trainer.drawing import Painter
from atelier_trainer.encode import Fresh, Kept, Latents, Views, Words, encode_captions, encode_pictures
from atelier_trainer.options import TrainOptions
from atelier_trainer.pictures import Pictures
from atelier_trainer.progress import Bars
from atelier_trainer.stopping import Stop


@dataclass(frozen=True)
class Prepared:
    """The data set as the UNet sees it; VAE and text encoder are no longer needed, except by Fresh latents."""

    latents: Latents
    words: Words
    held_out: Kept
    held_out_words: Words
    painter: Painter | None


def prepare(
    options: TrainOptions, base: Base, fitted: Pictures, held_out: Pictures, width: int, height: int,
    accelerator: Accelerator, bars: Bars, stop: Stop,
) -> Prepared:  # fmt: skip
    """Encodes what no earlier run has encoded; every process calls it.

    Raises:
        DataError: a picture cannot be read.
        Stopped: SIGTERM came; what is encoded is kept.
    """
    views = Views(width, height, options.random_flip, 0 if options.center_crop else options.random_crops)
    cache_dir, device = Path(options.cache_dir).expanduser(), accelerator.device

    def progress(done: int, total: int) -> None:
        bars.encoded(done, total)
        stop.check()

    def kept(pictures: Pictures, views: Views) -> Kept:
        return encode_pictures(
            base, pictures, views, cache_dir, progress,
            device=device, crew=accelerator, threads=options.dataloader_num_workers,
        )  # fmt: skip

    latents: Latents
    if options.random_crops == 0 and not options.center_crop and fitted.leave_room(width, height):
        latents = Fresh(base.vae().to(device), fitted, views, float(base.config("vae")["scaling_factor"]))
    else:
        latents = kept(fitted, views)
    validation = kept(held_out, Views(width, height))
    captions = [*fitted.captions, *held_out.captions]
    words = encode_captions(base, captions, cache_dir, device=device, crew=accelerator)
    painter = None
    if options.validation_prompt is not None:
        prompt = encode_captions(base, [options.validation_prompt], cache_dir, device=device, crew=accelerator)
        painter = Painter(base, prompt, width, height, options.num_validation_images, options.seed)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Prepared(
        latents,
        Words(words.states, words.caption[: len(fitted)], words.empty),
        validation,
        Words(words.states, words.caption[len(fitted) :], words.empty),
        painter,
    )
