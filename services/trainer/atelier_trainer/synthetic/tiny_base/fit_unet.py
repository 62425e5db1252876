"""Trains the tiny base's UNet and text encoder together on `colour` scenes whose latents were encoded once."""

from __future__ import annotations

import itertools
import logging
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from atelier_trainer.synthetic.tiny_base.architecture import (
    TEXT_TOKENS,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
)
from atelier_trainer.synthetic.tiny_base.checkpoint import load_state, running_average, save_state
from atelier_trainer.synthetic.tiny_base.fit_decoder import average_of_vae
from atelier_trainer.synthetic.tiny_base.fit_vae import SAVE_EVERY_S, learning_rate_share
from atelier_trainer.synthetic.tiny_base.image_cache import render_images

log = logging.getLogger(__name__)

BATCH = 32
LEARNING_RATE = 1e-3
EMA_DECAY = 0.998
CAPTION_DROPOUT = 0.1
MIN_SNR_GAMMA = 5.0


def fit_unet(state_dir: Path, steps: int, scenes_count: int, seed: int) -> Path:
    """Runs, or resumes, `steps` optimizer steps of `BATCH` samples and returns the file of the finished state.

    Loss: mean squared error of v, weighted min(snr, 5) / (snr + 1).
    Source: Hang et al. 2023, arXiv:2303.09556, section 3.4 (v-prediction form).
    """
    torch.manual_seed(seed)
    images, captions = render_images(state_dir / "images", "colour", scenes_count, seed + 1)
    tokenizer = build_tokenizer(itertools.chain.from_iterable(captions), state_dir / "tokenizer")
    mean, std, scaling = encode_latents(state_dir, images)
    tokens = torch.tensor(
        [tokenizer(texts, padding="max_length", truncation=True).input_ids for texts in captions], dtype=torch.int32
    )  # [scenes, captions, TEXT_TOKENS]
    empty = torch.tensor(tokenizer("", padding="max_length").input_ids)

    unet, text_encoder = build_unet(), build_text_encoder(tokenizer)
    unet.to(memory_format=torch.channels_last)  # in float32 at this batch size faster than bfloat16, on one core by a quarter
    model = torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    average = running_average(model, EMA_DECAY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=1e-2)
    state_file = state_dir / "unet.pt"
    step = load_state(state_file, model=model, average=average, optimizer=optimizer)
    scheduler = build_scheduler()
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)  # [1000]

    longest = int((tokens != empty[-1]).sum(-1).max()) + 1
    log.info("longest caption: %d of %d tokens", longest, TEXT_TOKENS)
    started = saved = time.monotonic()
    first, recent = step, []
    while step < steps:
        rng = np.random.default_rng([seed, step])
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.from_numpy(rng.integers(len(images), size=BATCH))
        ids = tokens[rows, torch.from_numpy(rng.integers(tokens.shape[1], size=BATCH))].long()
        ids[torch.from_numpy(rng.random(BATCH) < CAPTION_DROPOUT)] = empty
        noise = torch.randn((2, BATCH, *mean.shape[1:]), generator=generator)
        latents = (mean[rows].float() + std[rows].float() * noise[0]) * scaling
        times = torch.randint(0, len(snr), (BATCH,), generator=generator)
        noisy = scheduler.add_noise(latents, noise[1], times)
        target = scheduler.get_velocity(latents, noise[1], times)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_share(step, steps)
        states = text_encoder(ids).last_hidden_state
        predicted = unet(noisy.to(memory_format=torch.channels_last), times, states).sample
        weight = snr[times].clamp(max=MIN_SNR_GAMMA) / (snr[times] + 1)
        loss = (weight * F.mse_loss(predicted, target, reduction="none").mean((1, 2, 3))).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        step += 1
        recent.append(loss.item())
        if step % 50 == 0:
            rate = (step - first) * BATCH / (time.monotonic() - started)
            log.info("unet step %d/%d loss %.4f %.1f samples/s", step, steps, float(np.mean(recent)), rate)
            recent.clear()
        if time.monotonic() - saved > SAVE_EVERY_S or step == steps:
            save_state(state_file, step, model=model, average=average, optimizer=optimizer)
            saved = time.monotonic()
    return state_file


def encode_latents(state_dir: Path, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Posterior mean and standard deviation of every image, once.

    Returns:
        mean and std, float16 [n, 8, 16, 16], and the factor that gives sampled latents a standard deviation of one.
    """
    file = state_dir / f"latents-{len(images)}.pt"
    if not file.exists():
        vae, means, stds = average_of_vae(state_dir, decoder=False), [], []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for start in range(0, len(images), 64):
                batch = torch.from_numpy(images[start : start + 64].copy()).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
                posterior = vae.encode(batch).latent_dist
                means.append(posterior.mean.half())
                stds.append(posterior.std.half())
        torch.save({"mean": torch.cat(means), "std": torch.cat(stds)}, file)
    stored = torch.load(file, weights_only=True)
    mean, std = stored["mean"], stored["std"]
    variance = mean.float().var() + std.float().square().mean()
    return mean, std, float(1.0 / variance.sqrt())
