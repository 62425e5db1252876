"""The diffusion objective in its two places: the noisy training step, and the validation loss that never changes.

Notation: b batch, c h w latent shape, s text tokens, d text width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional as F

from atelier_trainer.config.options import TrainOptions
from atelier_trainer.data.encode import CachedLatents, CaptionEmbeddings, Latents

VALIDATION_TIMES = (50, 200, 350, 500, 650, 800, 950)  # of 1000; spread over all noise levels
VALIDATION_SEED = 20_221
VALIDATION_BATCH = 16


def target(noise_schedule: Any, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """What the UNet should predict, [b, c, h, w]: the noise, or v (Salimans and Ho 2022, arXiv:2202.00512)."""
    if noise_schedule.config.prediction_type == "v_prediction":
        velocity: torch.Tensor = noise_schedule.get_velocity(latents, noise, times)
        return velocity
    return noise


def snr_weights(noise_schedule: Any, times: torch.Tensor, gamma: float) -> torch.Tensor:
    """min(SNR, gamma) over SNR for epsilon, over SNR + 1 for v-prediction, float32 [b].

    Source: Hang et al. 2023, arXiv:2303.09556, section 3.4.
    """
    kept = noise_schedule.alphas_cumprod[times]
    snr = kept / (1 - kept)
    divisor = snr + 1 if noise_schedule.config.prediction_type == "v_prediction" else snr
    return snr.clamp(max=gamma) / divisor


def training_loss(
    options: TrainOptions,
    noise_schedule: Any,
    predict: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    latents: Latents,
    words: CaptionEmbeddings,
    rows: torch.Tensor,
    draw: torch.Generator,
    device: torch.device,
) -> torch.Tensor:
    """Mean squared error of one batch; a new variant, posterior sample, noise and time step for every row.

    Args:
        options: caption_dropout, noise_offset and snr_gamma are read.
        noise_schedule: diffusers' DDPMScheduler of the base.
        predict: noisy latents [b, c, h, w], times [b] and text states [b, s, d] to what the UNet predicts.
        latents: of the data set.
        words: of the same data set.
        rows: int64 [b].
        draw: everything random of the step comes from here, on the CPU, so that each device draws the same.
        device: where `predict` computes.
    """
    clean = latents.sample(rows, draw)
    noise = torch.randn(clean.shape, generator=draw)
    if options.noise_offset:  # Guttenberg 2023, "Diffusion with Offset Noise": whole channels become brighter or darker
        noise = noise + options.noise_offset * torch.randn((*clean.shape[:2], 1, 1), generator=draw)
    times = torch.randint(0, noise_schedule.config.num_train_timesteps, (len(rows),), generator=draw)
    dropped = torch.rand(len(rows), generator=draw) < options.caption_dropout
    states = torch.where(dropped[:, None, None], words.empty, words.of(rows))
    noisy, wanted = noise_schedule.add_noise(clean, noise, times), target(noise_schedule, clean, noise, times)
    predicted = predict(noisy.to(device), times.to(device), states.to(device)).float()
    if options.snr_gamma is None:
        return F.mse_loss(predicted, wanted.to(device))
    weights = snr_weights(noise_schedule, times, options.snr_gamma).to(device)
    return (weights * F.mse_loss(predicted, wanted.to(device), reduction="none").mean((1, 2, 3))).mean()


def validation_loss(
    unet: Any,
    noise_schedule: Any,
    held_out: CachedLatents,
    words: CaptionEmbeddings,
    *,
    share: tuple[int, int] = (0, 1),
    add: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums,
) -> float:
    """Mean squared error over held-out images x VALIDATION_TIMES, with noise that depends on image and time alone.

    The same weights give the same number, whatever the run's seed, batch size, step or number of processes.

    Args:
        unet: in evaluation mode afterwards as it was before.
        noise_schedule: diffusers' DDPMScheduler of the base.
        held_out: the posterior's means are used, without flips.
        words: captions of the held-out images.
        share: this process and the number of processes that share the work.
        add: sums a tensor over those processes.
    """
    parameter, training = next(unet.parameters()), unet.training
    unet.eval()
    sums, count = [], 0
    with torch.inference_mode():
        for number, (latents, noise, times, rows) in enumerate(_units(held_out)):
            wanted = target(noise_schedule, latents, noise, times)
            count += wanted.numel()
            if number % share[1] != share[0]:
                sums.append(0.0)
                continue
            noisy = noise_schedule.add_noise(latents, noise, times)
            predicted = _in_its_own_format(unet, parameter, noisy, times, words.of(rows))
            sums.append(float(F.mse_loss(predicted.float().cpu(), wanted, reduction="sum")))
    unet.train(training)
    return float(sum(add(torch.tensor(sums, dtype=torch.float64)).tolist()) / count)


def _units(held_out: CachedLatents) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Latents, noise, times and row numbers of each batch, the same whatever part of them a process computes."""
    draw = torch.Generator().manual_seed(VALIDATION_SEED)
    for time in VALIDATION_TIMES:
        for start in range(0, len(held_out), VALIDATION_BATCH):
            rows = torch.arange(start, min(start + VALIDATION_BATCH, len(held_out)))
            latents = held_out.mean[rows, 0] * held_out.scale
            yield latents, torch.randn(latents.shape, generator=draw), torch.full((len(rows),), time), rows


def _in_its_own_format(unet: Any, parameter: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
    """One prediction in the format of the UNet's frozen weights: bf16 weights meet bf16 inputs, float32 LoRA included."""
    noisy, times, states = (value.to(parameter.device) for value in inputs)
    mixed = parameter.dtype != torch.float32
    with torch.autocast(parameter.device.type, parameter.dtype, enabled=mixed):
        predicted: torch.Tensor = unet(noisy, times, states).sample
    return predicted


def validation_digest(images_digest: str, source: str, width: int, height: int) -> str:
    """Identity of a validation loss: two numbers may be compared only when these agree."""
    measured_on = [images_digest, source, VALIDATION_TIMES, VALIDATION_SEED, VALIDATION_BATCH, width, height]
    return hashlib.sha256(json.dumps(measured_on).encode()).hexdigest()
