"""Starts the trainings of the tiny base model from existing weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from atelier_trainer.errors import BaseModelError
from atelier_trainer.synthetic.tiny_base.checkpoint import running_average, save_state
from atelier_trainer.synthetic.tiny_base.fit_unet import EMA_DECAY, LEARNING_RATE
from atelier_trainer.synthetic.tiny_base.fit_vae import LEARNING_RATE as VAE_LEARNING_RATE


def initialize_from(start: Path, state_dir: Path) -> None:
    """Writes the states of VAE and UNet at step 0 with the weights of a diffusers folder, where they do not exist yet.

    Its tokenizer is copied as well: the text encoder's weights belong to its token ids.

    Raises:
        BaseModelError: the folder cannot be loaded.
    """
    try:
        vae = AutoencoderKL.from_pretrained(start / "vae", dtype=torch.float32, use_safetensors=True)
        unet = UNet2DConditionModel.from_pretrained(start / "unet", dtype=torch.float32, use_safetensors=True)
        text_encoder = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32, use_safetensors=True)
        CLIPTokenizer.from_pretrained(start / "tokenizer")
    except (OSError, ValueError, TypeError) as error:
        raise BaseModelError(f"--start {str(start)!r} is not a tiny base model: {str(error).splitlines()[0]}") from error
    if not (state_dir / "vae.pt").exists():
        optimizer = torch.optim.AdamW(vae.parameters(), lr=VAE_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=1e-3)
        save_state(state_dir / "vae.pt", 0, vae=vae, average=running_average(vae, EMA_DECAY), optimizer=optimizer)
    if not (state_dir / "unet.pt").exists():
        shutil.copytree(start / "tokenizer", state_dir / "tokenizer", dirs_exist_ok=True)
        model = torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=1e-2)
        save_state(state_dir / "unet.pt", 0, model=model, average=running_average(model, EMA_DECAY), optimizer=optimizer)
