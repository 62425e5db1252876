"""The diffusion objective: the loss of a training step, and the validation loss, which is the same for the same weights.

Notation: b batch, c h w latent shape.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from atelier_trainer.config.option_groups import OptimizationOptions
from atelier_trainer.data.encoded import CachedLatents, EncodedDataset, Latents
from atelier_trainer.data.process_group import ProcessGroup, SingleProcess
from atelier_trainer.families.family import Conditioning, unet_arguments

VALIDATION_TIMES = (50, 200, 350, 500, 650, 800, 950)  # of 1000; spread over all noise levels
VALIDATION_SEED = 20_221
VALIDATION_BATCH = 16
Predict = Callable[[torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]


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
    signal = noise_schedule.alphas_cumprod[times]
    snr = signal / (1 - signal)
    divisor = snr + 1 if noise_schedule.config.prediction_type == "v_prediction" else snr
    return snr.clamp(max=gamma) / divisor


@dataclass(frozen=True)
class TrainingLoss:
    """Mean squared error of a batch, with a new variant, posterior sample, noise and time step for every row.

    Attributes:
        options: caption_dropout, noise_offset and snr_gamma are used.
        noise_schedule: diffusers' DDPMScheduler of the base model.
        dataset: encoded images and captions.
        device: that the prediction runs on.
    """

    options: OptimizationOptions
    noise_schedule: Any
    dataset: EncodedDataset[Latents]
    device: torch.device

    def __call__(self, predict: Predict, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The loss of these rows, a scalar.

        Args:
            predict: noisy latents [b, c, h, w], times [b] and conditioning to the UNet's prediction.
            rows: int64 [b].
            generator: source of everything random in the step; on the CPU, so that every device gets the same numbers.
        """
        options, schedule, captions = self.options, self.noise_schedule, self.dataset.captions
        latents, geometry = self.dataset.latents.sample(rows, generator)
        noise = torch.randn(latents.shape, generator=generator)
        if options.noise_offset:  # Guttenberg 2023, "Diffusion with Offset Noise": whole channels become brighter or darker
            noise = noise + options.noise_offset * torch.randn((*latents.shape[:2], 1, 1), generator=generator)
        times = torch.randint(0, schedule.config.num_train_timesteps, (len(rows),), generator=generator)
        dropped = torch.rand(len(rows), generator=generator) < options.caption_dropout
        conditioning = _with_dropped(captions.of_images(rows), captions.empty, dropped)
        conditioning |= self.dataset.size_conditioning(geometry)
        noisy = schedule.add_noise(latents, noise, times)
        predicted = predict(noisy.to(self.device), times.to(self.device), _on(self.device, conditioning)).float()
        expected = target(schedule, latents, noise, times).to(self.device)
        if options.snr_gamma is None:
            return F.mse_loss(predicted, expected)
        weights = snr_weights(schedule, times, options.snr_gamma).to(self.device)
        return (weights * F.mse_loss(predicted, expected, reduction="none").mean((1, 2, 3))).mean()


def validation_loss(
    unet: Any, noise_schedule: Any, dataset: EncodedDataset[CachedLatents], processes: ProcessGroup | None = None
) -> float:
    """Mean squared error over held-out images x VALIDATION_TIMES, with noise that depends on image and time alone.

    The same weights give the same number, whatever the run's seed, batch size, step or number of processes.

    Args:
        unet: its training mode is restored afterwards.
        noise_schedule: diffusers' DDPMScheduler of the base model.
        dataset: held-out images; the posterior's means are used, without flips.
        processes: that share the work; this one alone by default.
    """
    processes = processes or SingleProcess()
    parameter, was_training = next(unet.parameters()), unet.training
    unet.eval()
    sums, count = [], 0
    with torch.inference_mode():
        for number, (latents, noise, times, rows) in enumerate(_validation_batches(dataset.latents)):
            expected = target(noise_schedule, latents, noise, times)
            count += expected.numel()
            if number % processes.num_processes != processes.process_index:
                sums.append(0.0)
                continue
            noisy = noise_schedule.add_noise(latents, noise, times)
            conditioning = dataset.captions.of_images(rows)
            conditioning |= dataset.size_conditioning(dataset.latents.geometry[rows, 0])
            predicted = _predict_in_weights_dtype(unet, noisy, times, conditioning)
            sums.append(float(F.mse_loss(predicted.float().cpu(), expected, reduction="sum")))
    unet.train(was_training)
    totals = torch.tensor(sums, dtype=torch.float64)
    if processes.num_processes > 1:
        totals = processes.reduce(totals.to(parameter.device), "sum")
    return float(sum(totals.tolist()) / count)


def _validation_batches(
    latents: CachedLatents,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Latents, noise, times and row numbers of each batch, the same in every process."""
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    for time in VALIDATION_TIMES:
        for start in range(0, len(latents), VALIDATION_BATCH):
            rows = torch.arange(start, min(start + VALIDATION_BATCH, len(latents)))
            batch = latents.mean[rows, 0] * latents.scale
            yield batch, torch.randn(batch.shape, generator=generator), torch.full((len(rows),), time), rows


def _with_dropped(conditioning: Conditioning, empty: Conditioning, dropped: torch.Tensor) -> Conditioning:
    """That of the empty caption in the rows where `dropped`, bool [b], is true."""
    return {
        name: torch.where(dropped.reshape(-1, *[1] * (tensor.dim() - 1)), empty[name], tensor)
        for name, tensor in conditioning.items()
    }


def _on(device: torch.device, conditioning: Conditioning) -> Conditioning:
    return {name: tensor.to(device) for name, tensor in conditioning.items()}


def _predict_in_weights_dtype(unet: Any, noisy: torch.Tensor, times: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
    """One prediction in the dtype of the UNet's frozen weights; bf16 weights need autocast, because the LoRA is in float32."""
    parameter = next(unet.parameters())
    device, mixed = parameter.device, parameter.dtype != torch.float32
    with torch.autocast(device.type, parameter.dtype, enabled=mixed):
        predicted: torch.Tensor = unet(noisy.to(device), times.to(device), **unet_arguments(_on(device, conditioning))).sample
    return predicted


def validation_digest(images_digest: str, source: str, width: int, height: int) -> str:
    """Identity of a validation loss: two losses compare only where these agree."""
    measured_on = [images_digest, source, VALIDATION_TIMES, VALIDATION_SEED, VALIDATION_BATCH, width, height]
    return hashlib.sha256(json.dumps(measured_on).encode()).hexdigest()
