"""Loss and gradient of a step beside those of diffusers' `train_text_to_image_lora.py`, on equal noise and time steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from atelier_trainer.config.option_groups import OptimizationOptions
from atelier_trainer.data.encoded import CachedLatents, CaptionEmbeddings, EncodedDataset
from atelier_trainer.export.adapter import inject_lora
from atelier_trainer.families.family import Conditioning, unet_arguments
from atelier_trainer.families.sd import SD
from atelier_trainer.families.sdxl import SDXL
from atelier_trainer.objective import TrainingLoss
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from torch.nn import functional as F

from .small_base import SIZE_PX, TOKENS, write_small_base, write_small_xl_base

ROWS, SCALE, BOUND = 6, 0.18215, 1e-5


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def base(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    write = write_small_base if request.param == "sd" else write_small_xl_base
    return write(tmp_path_factory.mktemp("base"))


@pytest.fixture
def unet(base: Path) -> UNet2DConditionModel:
    """With LoRA whose B is not zero, so that A has a gradient as well."""
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    generator = torch.Generator().manual_seed(5)
    for parameter in inject_lora(unet, 4, 2.0):
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return unet


@pytest.fixture
def dataset(unet: UNet2DConditionModel) -> EncodedDataset[CachedLatents]:
    """Latents without any spread, so that a sample is the mean times the scale."""
    generator = torch.Generator().manual_seed(3)
    side, width = SIZE_PX // 2, unet.config.cross_attention_dim
    mean = 4 * torch.randn(ROWS, 1, 4, side, side, generator=generator)
    states = torch.randn(ROWS + 1, TOKENS, width, generator=generator)
    texts, geometry = {"encoder_hidden_states": states}, torch.tensor([[[64.0, 48.0, 3.0, 0.0]]]).repeat(ROWS, 1, 1)
    if embedding := unet.config.projection_class_embeddings_input_dim:  # SDXL's
        texts["text_embeds"] = torch.randn(ROWS + 1, embedding - 6 * unet.config.addition_time_embed_dim, generator=generator)
    captions = CaptionEmbeddings(texts, torch.arange(1, ROWS + 1))
    family = SDXL if embedding else SD
    latents = CachedLatents(mean, torch.zeros_like(mean), geometry, SCALE)
    return EncodedDataset(latents, captions, lambda geometry: family.size_conditioning(geometry, SIZE_PX, SIZE_PX))


class RecordedPrediction:
    """The UNet's prediction; keeps its inputs."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self._unet = unet

    def __call__(self, noisy: torch.Tensor, times: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        self.noisy, self.times, self.conditioning = noisy, times, unet_arguments(conditioning)
        predicted: torch.Tensor = self._unet(noisy, times, **self.conditioning).sample
        return predicted


def gradients(unet: UNet2DConditionModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    unet.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in unet.named_parameters() if value.grad is not None}


def reference_loss(
    unet: UNet2DConditionModel,
    schedule: DDPMScheduler,
    latents: torch.Tensor,
    step: RecordedPrediction,
    snr_gamma: float | None,
) -> torch.Tensor:
    """The official script's loss, with the noise solved from x_t = sqrt(a) x_0 + sqrt(1 - a) e in float64."""
    a = schedule.alphas_cumprod.double()[step.times][:, None, None, None]
    noise = ((step.noisy.double() - a.sqrt() * latents.double()) / (1 - a).sqrt()).float()
    noisy = schedule.add_noise(latents, noise, step.times)
    velocity = schedule.config.prediction_type == "v_prediction"
    target = schedule.get_velocity(latents, noise, step.times) if velocity else noise
    predicted = unet(noisy, step.times, **step.conditioning, return_dict=False)[0]
    if snr_gamma is None:
        return F.mse_loss(predicted.float(), target.float(), reduction="mean")
    snr = compute_snr(schedule, step.times)
    weights = torch.stack([snr, snr_gamma * torch.ones_like(step.times)], dim=1).min(dim=1)[0]
    weights = weights / (snr + 1) if velocity else weights / snr
    loss = F.mse_loss(predicted.float(), target.float(), reduction="none")
    return (loss.mean(dim=list(range(1, loss.ndim))) * weights).mean()


@pytest.mark.parametrize("noise_offset", [0.0, 0.3])
@pytest.mark.parametrize("snr_gamma", [None, 5.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_loss_and_gradient_equal_those_of_diffusers_script(
    unet: UNet2DConditionModel,
    dataset: EncodedDataset[CachedLatents],
    prediction_type: str,
    snr_gamma: float | None,
    noise_offset: float,
) -> None:
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type)
    options = OptimizationOptions(caption_dropout=0.3, snr_gamma=snr_gamma, noise_offset=noise_offset)
    step, rows = RecordedPrediction(unet), torch.tensor([4, 0, 5, 2, 1, 3])
    loss = TrainingLoss(options, schedule, dataset, torch.device("cpu"))(step, rows, torch.Generator().manual_seed(2))
    own = gradients(unet, loss)
    added = step.conditioning.get("added_cond_kwargs", {})
    assert set(added) == ({"text_embeds", "time_ids"} if unet.config.addition_embed_type else set())
    expected = reference_loss(unet, schedule, dataset.latents.mean[rows, 0] * SCALE, step, snr_gamma)
    reference = gradients(unet, expected)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=BOUND)
    assert own.keys() == reference.keys() and all(".lora_" in name for name in own)
    largest = max(float(value.abs().max()) for value in reference.values())
    assert all(float((own[name] - reference[name]).abs().max()) <= BOUND * largest for name in own)
