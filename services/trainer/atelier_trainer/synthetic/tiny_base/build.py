"""The three trainings one after the other, and the diffusers folder they end in."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from atelier_trainer.synthetic.tiny_base.architecture import build_scheduler, build_text_encoder, build_unet
from atelier_trainer.synthetic.tiny_base.checkpoint import load_state
from atelier_trainer.synthetic.tiny_base.fit_decoder import average_of_vae, fit_decoder
from atelier_trainer.synthetic.tiny_base.fit_unet import encode, fit_unet
from atelier_trainer.synthetic.tiny_base.fit_vae import fit_vae
from atelier_trainer.synthetic.tiny_base.image_cache import render_images
from atelier_trainer.synthetic.tiny_base.warm_start import begin_from

log = logging.getLogger(__name__)


def make(
    out: Path,
    state_dir: Path,
    *,
    scenes: int,
    vae_scenes: int,
    vae_steps: int,
    decoder_steps: int,
    unet_steps: int,
    seed: int,
    start: Path | None = None,
) -> None:
    """Trains what is not trained yet and writes `out`. Can be interrupted and started again with the same numbers.

    With `start`, a folder that `make` once wrote, the trainings begin with its weights.
    """
    if start is not None:
        begin_from(start, state_dir)
    fit_vae(state_dir, vae_steps, vae_scenes, seed)
    fit_decoder(state_dir, decoder_steps, vae_scenes, seed)
    fit_unet(state_dir, unet_steps, scenes, seed)
    assemble(state_dir, out, scenes, seed)


def assemble(state_dir: Path, out: Path, scenes: int, seed: int) -> None:
    """Writes the averaged weights, as far as they are trained, as a diffusers folder in float16 safetensors."""
    tokenizer = CLIPTokenizer.from_pretrained(state_dir / "tokenizer")
    model = torch.nn.ModuleDict({"unet": build_unet(), "text_encoder": build_text_encoder(tokenizer)})
    average = torch.optim.swa_utils.AveragedModel(model)
    step = load_state(state_dir / "unet.pt", average=average)
    log.info("writing the average at step %d", step)
    vae = average_of_vae(state_dir)
    images, _ = render_images(state_dir / "images", "colour", scenes, seed + 1)
    vae.register_to_config(scaling_factor=round(encode(state_dir, images)[2], 6))
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
