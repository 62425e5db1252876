"""Trains the tiny VAE's decoder further, its encoder frozen, on whole images whose latents carry some noise.

A UNet's latents are never exactly those of the encoder. A decoder trained on exact latents turns a small error into a speck of
another colour; one trained on noisy latents smooths it. The encoder is frozen, so cached latents stay valid.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import torch

from atelier_trainer.synthetic.tiny_base.architecture import SIZE_PX, build_vae
from atelier_trainer.synthetic.tiny_base.checkpoint import load_state, running_average, save_state
from atelier_trainer.synthetic.tiny_base.fit_vae import SAVE_EVERY_S, batch_of_crops, image_loss, learning_rate_share
from atelier_trainer.synthetic.tiny_base.image_cache import render_images

log = logging.getLogger(__name__)

BATCH = 8
LEARNING_RATE = 7e-4
NOISE = 0.25  # largest standard deviation of the noise, in standard deviations of the latents
EMA_DECAY = 0.998
DECODER_FILE = "decoder.pt"


def fit_decoder(state_dir: Path, steps: int, scenes_per_style: int, seed: int) -> None:
    """Runs, or resumes, `steps` optimizer steps; reads vae.pt and writes decoder.pt next to it. The loss is `image_loss`."""
    if steps == 0:
        return
    torch.manual_seed(seed)
    vae = average_of_vae(state_dir, decoder=False)
    vae.to(memory_format=torch.channels_last)
    decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).train().requires_grad_(True)
    average = running_average(decoder, EMA_DECAY)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    state_file = state_dir / DECODER_FILE
    step = load_state(state_file, decoder=decoder, average=average, optimizer=optimizer)
    data = [render_images(state_dir / "images", style, scenes_per_style, seed)[0] for style in ("colour", "sketch")]

    started = saved = time.monotonic()
    first, recent = step, []
    while step < steps:
        rng = np.random.default_rng([seed, step, 2])
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        batch = batch_of_crops(data, rng, BATCH, SIZE_PX).contiguous(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_share(step, steps)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            mean, std = posterior.mean.float(), posterior.std.float()
            latents = mean + std * torch.randn(mean.shape, generator=generator)
            spread = NOISE * latents.std() * torch.rand((BATCH, 1, 1, 1), generator=generator)
            latents = latents + spread * torch.randn(latents.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.decode(latents).sample
        loss = image_loss(decoded.float(), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(decoder)
        step += 1
        recent.append(loss.item())
        if step % 50 == 0:
            rate = (step - first) / (time.monotonic() - started)
            log.info("decoder step %d/%d loss %.4f %.2f steps/s", step, steps, float(np.mean(recent)), rate)
            recent.clear()
        if time.monotonic() - saved > SAVE_EVERY_S or step == steps:
            save_state(state_file, step, decoder=decoder, average=average, optimizer=optimizer)
            saved = time.monotonic()


def average_of_vae(state_dir: Path, decoder: bool = True) -> torch.nn.Module:
    """The averaged VAE of `fit_vae`, frozen, with the decoder of `fit_decoder` if `decoder` is set and it exists."""
    vae = build_vae()
    average = torch.optim.swa_utils.AveragedModel(vae)
    load_state(state_dir / "vae.pt", average=average)
    vae = average.module
    if decoder:
        further = torch.optim.swa_utils.AveragedModel(torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]))
        load_state(state_dir / DECODER_FILE, average=further)
        vae.post_quant_conv, vae.decoder = further.module[0], further.module[1]
    return vae.eval().requires_grad_(False)
