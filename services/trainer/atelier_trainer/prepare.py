"""Encodes images and captions for the training steps, the validation and the validation prompt."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

from atelier_trainer.context import PreparedData, TrainContext
from atelier_trainer.data.cache import TensorCache
from atelier_trainer.data.encode import Encoder
from atelier_trainer.data.encoded import Augmentation, EncodedDataset, Latents, OnlineLatents
from atelier_trainer.families.family import Conditioning
from atelier_trainer.tracking.validation_images import ImageSampler


def prepare(context: TrainContext) -> PreparedData:
    """Encodes what is not in the cache; every process calls it.

    Raises:
        DataError: an image cannot be read.
        Stopped: SIGTERM was received; what is encoded stays in the cache.
    """
    data, images, held_out = context.options.data, context.train_images, context.validation_images
    encoder = Encoder(
        context.base,
        TensorCache(Path(data.cache_dir).expanduser(), context.accelerator),
        context.accelerator.device,
        data.dataloader_num_workers,
    )

    def on_progress(done: int, total: int) -> None:
        context.progress.show_encoding(done, total)
        context.stop.check()

    augmentation = Augmentation(context.width, context.height, data.random_flip, 0 if data.center_crop else data.random_crops)
    latents: Latents
    if data.random_crops == 0 and not data.center_crop and images.any_larger_than(context.width, context.height):
        vae = context.base.load_vae().to(context.accelerator.device)
        latents = OnlineLatents(vae, images, augmentation, float(context.base.config("vae")["scaling_factor"]))
    else:
        latents = encoder.encode_images(images, augmentation, on_progress)
    validation_latents = encoder.encode_images(held_out, Augmentation(context.width, context.height), on_progress)
    captions = encoder.encode_captions([*images.captions, *held_out.captions])

    def sizes(geometry: torch.Tensor) -> Conditioning:
        return context.base.family.size_conditioning(geometry, context.width, context.height)

    prepared = PreparedData(
        EncodedDataset(latents, captions.slice(0, len(images)), sizes),
        EncodedDataset(validation_latents, captions.slice(len(images), len(images) + len(held_out)), sizes),
        _image_sampler(context, encoder),
    )
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return prepared


def _image_sampler(context: TrainContext, encoder: Encoder) -> ImageSampler | None:
    validation, seed = context.options.validation, context.options.optimization.seed
    if validation.validation_prompt is None:
        return None
    prompt = encoder.encode_captions([validation.validation_prompt])
    return ImageSampler(context.base, prompt, context.width, context.height, validation.num_validation_images, seed)
