"""Trains the tiny base model's AutoencoderKL on images of both styles, so that it can reconstruct the style a LoRA will learn.

First on random 64 px crops (cheap, many edges), then on whole images (removes the halos that crops cause).
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from atelier_trainer.synthetic.tiny_base.architecture import SIZE_PX, build_vae
from atelier_trainer.synthetic.tiny_base.checkpoint import load_state, running_average, save_state
from atelier_trainer.synthetic.tiny_base.image_cache import render_images

log = logging.getLogger(__name__)

CROP_PX = 64
CROP_BATCH = 32
WHOLE_BATCH = 12
WHOLE_SHARE = 0.3  # of the steps, at the end
LEARNING_RATE = 2e-3
KL_WEIGHT = 1e-4
EDGE_WEIGHT = 0.1
TONE_WEIGHT = 5.0  # without it edges come first and colours collapse to two or three
TONE_PX = 8
EMA_DECAY = 0.998
SAVE_EVERY_S = 60


def fit_vae(state_dir: Path, steps: int, scenes_per_style: int, seed: int) -> Path:
    """Runs, or resumes, `steps` optimizer steps and returns the file of the finished state.

    The loss is `image_loss` + a little KL, means over elements.
    """
    torch.manual_seed(seed)
    vae = build_vae()
    average = running_average(vae, EMA_DECAY)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    state_file = state_dir / "vae.pt"
    step = load_state(state_file, vae=vae, average=average, optimizer=optimizer)
    data = [render_images(state_dir / "images", style, scenes_per_style, seed)[0] for style in ("colour", "sketch")]

    whole_from = int(steps * (1 - WHOLE_SHARE))
    started = saved = time.monotonic()
    first = step
    while step < steps:
        rng = np.random.default_rng([seed, step])
        batch = batch_of_crops(
            data, rng, CROP_BATCH if step < whole_from else WHOLE_BATCH, CROP_PX if step < whole_from else SIZE_PX
        )
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_share(step, steps)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        decoded, kl = decoded.float(), posterior.kl().mean() / posterior.mean[0].numel()
        loss = image_loss(decoded, batch) + KL_WEIGHT * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(vae)
        step += 1
        if step % 100 == 0:
            rate = (step - first) / (time.monotonic() - started)
            log.info("vae step %d/%d loss %.4f kl %.2f %.2f steps/s", step, steps, loss.item(), kl.item(), rate)
        if time.monotonic() - saved > SAVE_EVERY_S or step == steps:
            save_state(state_file, step, vae=vae, average=average, optimizer=optimizer)
            saved = time.monotonic()
    return state_file


def image_loss(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """L1 + MSE + L1 on finite differences (edges) + MSE of 8 px means (tone), each a mean over elements [b, 3, h, w]."""
    edges = sum(F.l1_loss(decoded.diff(dim=dim), images.diff(dim=dim)) for dim in (-1, -2))
    tone = F.mse_loss(F.avg_pool2d(decoded, TONE_PX), F.avg_pool2d(images, TONE_PX))
    return F.l1_loss(decoded, images) + F.mse_loss(decoded, images) + EDGE_WEIGHT * edges + TONE_WEIGHT * tone


def learning_rate_share(step: int, steps: int) -> float:
    """Linear warm-up over 200 steps, then half a cosine to zero; a factor in [0, 1]."""
    warm = min(1.0, (step + 1) / 200)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def batch_of_crops(data: list[np.ndarray], rng: np.random.Generator, count: int, size_px: int) -> torch.Tensor:
    """Random crops, every second one from each style: float32 [count, 3, size_px, size_px] in [-1, 1]."""
    crops = np.empty((count, size_px, size_px, 3), np.uint8)
    for row in range(count):
        source = data[row % len(data)]
        top, left = rng.integers(0, SIZE_PX - size_px + 1, 2)
        crops[row] = source[rng.integers(len(source)), top : top + size_px, left : left + size_px]
    if rng.random() < 0.5:
        crops = crops[:, :, ::-1]
    return torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
