"""Images of the validation prompt, with the same seeds at each validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.data.encoded import CaptionEmbeddings
from atelier_trainer.tracking.metric_sink import MetricSink

STEPS = 25


@dataclass(frozen=True)
class ImageSampler:
    """Generates images of one prompt.

    Attributes:
        base: its VAE and scheduler are loaded at each call and released afterwards.
        prompt: conditioning of the prompt and of the empty prompt.
        width: px.
        height: px.
        count: number of images.
        seed: of the first image; each next one has the next.
    """

    base: BaseModel
    prompt: CaptionEmbeddings
    width: int
    height: int
    count: int
    seed: int

    def log_images(self, unet: Any, step: int, sinks: Sequence[MetricSink]) -> None:
        """Generates images with the UNet in its current state and logs them."""
        parameter, was_training = next(unet.parameters()), unet.training
        device, mixed = parameter.device, parameter.dtype != torch.float32
        unet.eval()
        family = self.base.family
        left_out = {name: None for part in family.text_encoders for name in (part.part, part.tokenizer)}
        pipeline = family.pipeline_class.from_pretrained(
            self.base.folder, unet=unet, vae=self.base.load_vae().to(device), **left_out, **family.pipeline_arguments
        )
        prompt = family.prompt_arguments(self.prompt.of_images(torch.tensor([0])))
        negative = family.prompt_arguments(self.prompt.empty)
        texts = prompt | {f"negative_{name}": tensor for name, tensor in negative.items()}
        pipeline.set_progress_bar_config(disable=True)
        for index in range(self.count):
            with torch.inference_mode(), torch.autocast(device.type, parameter.dtype, enabled=mixed):
                latents = pipeline(
                    **{name: tensor.to(device) for name, tensor in texts.items()},
                    width=self.width,
                    height=self.height,
                    num_inference_steps=STEPS,
                    generator=torch.Generator().manual_seed(self.seed + index),
                    output_type="latent",
                ).images
            with torch.inference_mode():
                decoded = pipeline.vae.decode(latents.float() / pipeline.vae.config.scaling_factor).sample
            (image,) = pipeline.image_processor.postprocess(decoded.cpu(), output_type="pil")
            for sink in sinks:
                sink.log_image(image, f"validation_{index}", step)
        unet.train(was_training)
