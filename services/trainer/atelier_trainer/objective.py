"""The diffusion objective in its two places: the noisy training step, and the validation loss that never changes.

Notation: b batch, c h w latent shape, s text tokens, d text width.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch.nn import functional as F

from atelier_trainer.encode import Encoded

VALIDATION_TIMES = (50, 200, 350, 500, 650, 800, 950)  # of 1000; spread over all noise levels
VALIDATION_SEED = 20_221
VALIDATION_BATCH = 16


def target(noise_schedule: Any, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """What the UNet should predict, [b, c, h, w]: the noise, or v (Salimans and Ho 2022, arXiv:2202.00512)."""
    if noise_schedule.config.prediction_type == "v_prediction":
        velocity: torch.Tensor = noise_schedule.get_velocity(latents, noise, times)
        return velocity
    return noise


def validation_loss(unet: Any, noise_schedule: Any, held_out: Encoded) -> float:
    """Mean squared error over held-out pictures x VALIDATION_TIMES, with noise that depends on picture and time alone.

    The same weights give the same number, whatever the run's seed, batch size or step.

    Args:
        unet: in evaluation mode afterwards as it was before.
        noise_schedule: diffusers' DDPMScheduler of the base.
        held_out: the posterior's means are used, without flips.
    """
    draw = torch.Generator().manual_seed(VALIDATION_SEED)
    device, training = next(unet.parameters()).device, unet.training
    unet.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for time in VALIDATION_TIMES:
            for start in range(0, len(held_out), VALIDATION_BATCH):
                rows = slice(start, start + VALIDATION_BATCH)
                latents = held_out.mean[rows, 0] * held_out.scale
                noise = torch.randn(latents.shape, generator=draw)
                times = torch.full((len(latents),), time)
                wanted = target(noise_schedule, latents, noise, times)
                noisy = noise_schedule.add_noise(latents, noise, times)
                states = held_out.states[held_out.caption[rows]]
                predicted = unet(noisy.to(device), times.to(device), states.to(device)).sample.float().cpu()
                total += float(F.mse_loss(predicted, wanted, reduction="sum"))
                count += wanted.numel()
    unet.train(training)
    return total / count


def validation_digest(pictures_digest: str, source: str, width: int, height: int) -> str:
    """Identity of a validation loss: two numbers may be compared only when these agree."""
    measured_on = [pictures_digest, source, VALIDATION_TIMES, VALIDATION_SEED, VALIDATION_BATCH, width, height]
    return hashlib.sha256(json.dumps(measured_on).encode()).hexdigest()
