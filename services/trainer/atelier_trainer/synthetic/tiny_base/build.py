"""Trains all parts of the tiny base model and writes them as a diffusers folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from atelier_trainer.synthetic.tiny_base.architecture import build_scheduler, build_text_encoder, build_unet
from atelier_trainer.synthetic.tiny_base.checkpoint import load_state
from atelier_trainer.synthetic.tiny_base.fit_decoder import average_of_vae, fit_decoder
from atelier_trainer.synthetic.tiny_base.fit_unet import encode_latents, fit_unet
from atelier_trainer.synthetic.tiny_base.fit_vae import fit_vae
from atelier_trainer.synthetic.tiny_base.image_cache import render_images
from atelier_trainer.synthetic.tiny_base.warm_start import initialize_from

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TinyBaseRecipe:
    """How much each part is trained on.

    Attributes:
        scenes: in colour, for the UNet.
        vae_scenes: of each style, for the VAE.
        vae_steps: optimizer steps of the VAE.
        decoder_steps: further ones of its decoder alone.
        unet_steps: of UNet and text encoder.
        seed: of everything random.
    """

    scenes: int
    vae_scenes: int
    vae_steps: int
    decoder_steps: int
    unet_steps: int
    seed: int


def build_tiny_base(out: Path, state_dir: Path, recipe: TinyBaseRecipe, start: Path | None = None) -> None:
    """Trains what is not trained yet and writes the folder `out`; resumes where an earlier call was interrupted.

    With `start`, the folder of an earlier tiny base model, the trainings start from its weights.
    """
    if start is not None:
        initialize_from(start, state_dir)
    fit_vae(state_dir, recipe.vae_steps, recipe.vae_scenes, recipe.seed)
    fit_decoder(state_dir, recipe.decoder_steps, recipe.vae_scenes, recipe.seed)
    fit_unet(state_dir, recipe.unet_steps, recipe.scenes, recipe.seed)
    write_pipeline(state_dir, out, recipe.scenes, recipe.seed)


def write_pipeline(state_dir: Path, out: Path, scenes: int, seed: int) -> None:
    """Writes the averaged weights, as far as they are trained, as a diffusers folder in float16 safetensors."""
    tokenizer = CLIPTokenizer.from_pretrained(state_dir / "tokenizer")
    model = torch.nn.ModuleDict({"unet": build_unet(), "text_encoder": build_text_encoder(tokenizer)})
    average = torch.optim.swa_utils.AveragedModel(model)
    step = load_state(state_dir / "unet.pt", average=average)
    log.info("writing the average at step %d", step)
    vae = average_of_vae(state_dir)
    images, _ = render_images(state_dir / "images", "colour", scenes, seed + 1)
    vae.register_to_config(scaling_factor=round(encode_latents(state_dir, images)[2], 6))
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=average.module["text_encoder"],
        tokenizer=tokenizer,
        unet=average.module["unet"],
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out)
