"""The losses against the published formulas, computed here from the schedule's own alphas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from atelier_trainer import objective
from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import DataOptions, ModelOptions, OptimizationOptions
from atelier_trainer.data.cache import TensorCache
from atelier_trainer.data.dataset import load_images
from atelier_trainer.data.encode import Encoder
from atelier_trainer.data.encoded import Augmentation, CachedLatents, CaptionEmbeddings, EncodedDataset
from atelier_trainer.data.process_group import SingleProcess
from atelier_trainer.families.family import Conditioning
from atelier_trainer.objective import TrainingLoss, validation_digest, validation_loss
from diffusers import DDPMScheduler

from .small_base import SIZE_PX

ROWS, SHAPE, TOKENS, WIDTH = 4, (2, 4, 4), 3, 5


def schedule(prediction_type: str) -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type)


@pytest.fixture
def dataset() -> EncodedDataset[CachedLatents]:
    """Latents without any spread, so that a sample is the mean times the scale."""
    generator = torch.Generator().manual_seed(3)
    mean = torch.randn(ROWS, 1, *SHAPE, generator=generator)
    states = torch.randn(ROWS + 1, TOKENS, WIDTH, generator=generator)
    return EncodedDataset(
        CachedLatents(mean, torch.zeros_like(mean), torch.zeros(ROWS, 1, 4), 0.5),
        CaptionEmbeddings({"encoder_hidden_states": states}, torch.arange(1, ROWS + 1)),
    )


class Prediction:
    """Predicts zeros, and keeps what it was called with."""

    def __call__(self, noisy: torch.Tensor, times: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        self.noisy, self.times, self.states = noisy, times, conditioning["encoder_hidden_states"]
        return torch.zeros_like(noisy)


def loss_of(
    options: OptimizationOptions, noise_schedule: DDPMScheduler, dataset: EncodedDataset[Any]
) -> tuple[float, Prediction]:
    prediction, generator = Prediction(), torch.Generator().manual_seed(1)
    training_loss = TrainingLoss(options, noise_schedule, dataset, torch.device("cpu"))
    return float(training_loss(prediction, torch.arange(ROWS), generator)), prediction


@pytest.mark.parametrize("snr_gamma", [None, 5.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_steps_loss_is_that_of_the_papers(
    dataset: EncodedDataset[CachedLatents], prediction_type: str, snr_gamma: float | None
) -> None:
    """Ho et al. arXiv:2006.11239, equation 4; Salimans and Ho arXiv:2202.00512; Hang et al. arXiv:2303.09556."""
    noise_schedule = schedule(prediction_type)
    options = OptimizationOptions(caption_dropout=0.0, snr_gamma=snr_gamma)
    loss, seen = loss_of(options, noise_schedule, dataset)
    latents = dataset.latents.mean[:, 0] * 0.5
    signal = noise_schedule.alphas_cumprod[seen.times]
    a, b = signal.sqrt().view(-1, 1, 1, 1), (1 - signal).sqrt().view(-1, 1, 1, 1)
    noise = (seen.noisy - a * latents) / b
    assert noise.std() == pytest.approx(1.0, abs=0.2)
    expected = noise if prediction_type == "epsilon" else a * noise - b * latents
    squared = expected.square().mean((1, 2, 3))
    if snr_gamma is not None:
        snr = signal / (1 - signal)
        squared = squared * snr.clamp(max=snr_gamma) / (snr if prediction_type == "epsilon" else snr + 1)
    assert loss == pytest.approx(float(squared.mean()), rel=1e-4)
    assert torch.equal(seen.states, dataset.captions.conditioning["encoder_hidden_states"][1:])


def test_a_noise_offset_shifts_whole_channels(dataset: EncodedDataset[CachedLatents]) -> None:
    """With an offset far above the noise, the noise of a channel is nearly constant."""
    noise_schedule = schedule("epsilon")
    _, plain = loss_of(OptimizationOptions(), noise_schedule, dataset)
    _, shifted = loss_of(OptimizationOptions(noise_offset=100.0), noise_schedule, dataset)
    assert plain.noisy.std((2, 3)).mean() > 0.5 * plain.noisy.mean((2, 3)).std()
    assert shifted.noisy.std((2, 3)).mean() < 0.1 * shifted.noisy.mean((2, 3)).std()


@pytest.mark.parametrize(("share", "dropped"), [(0.0, 0), (1.0, ROWS)])
def test_dropped_captions_become_the_empty_one(dataset: EncodedDataset[CachedLatents], share: float, dropped: int) -> None:
    share = min(share, 1 - 1e-9)
    _, seen = loss_of(OptimizationOptions(caption_dropout=share), schedule("epsilon"), dataset)
    assert sum(torch.equal(states, dataset.captions.empty["encoder_hidden_states"][0]) for states in seen.states) == dropped


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_snr_weights_are_those_of_the_paper(prediction_type: str) -> None:
    noise_schedule, times = schedule(prediction_type), torch.tensor([1, 400, 999])
    snr = (noise_schedule.alphas_cumprod / (1 - noise_schedule.alphas_cumprod))[times]
    expected = [min(value, 5.0) / (value + (prediction_type == "v_prediction")) for value in snr.tolist()]
    torch.testing.assert_close(objective.snr_weights(noise_schedule, times, 5.0), torch.tensor(expected))


class Half(SingleProcess):
    """One of two processes that run one after the other; the second gets the sum."""

    num_processes = 2

    def __init__(self, index: int, sums: list[torch.Tensor]) -> None:
        self.process_index, self._sums = index, sums

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "sum"
        self._sums.append(tensor)
        return sum(self._sums)


def test_the_validation_loss_depends_on_the_weights_alone(small_base: Path, sketches: Path, tmp_path: Path) -> None:
    base: BaseModel = load_base_model(ModelOptions(pretrained_model_name_or_path=str(small_base)))
    images = load_images(DataOptions(train_data_dir=str(sketches))).select(range(20))
    encoder = Encoder(base, TensorCache(tmp_path, SingleProcess()))
    latents = encoder.encode_images(images, Augmentation(SIZE_PX, SIZE_PX), lambda *_: None)
    dataset, unet = EncodedDataset(latents, encoder.encode_captions(images.captions)), base.load_unet()
    torch.manual_seed(1)
    first = validation_loss(unet, base.noise_schedule, dataset)
    torch.manual_seed(2)
    torch.randn(5)
    assert validation_loss(unet, base.noise_schedule, dataset) == first
    sums: list[torch.Tensor] = []
    assert validation_loss(unet, base.noise_schedule, dataset, Half(0, sums)) != first
    assert validation_loss(unet, base.noise_schedule, dataset, Half(1, sums)) == first
    with torch.no_grad():
        unet.conv_out.bias += 0.1
    assert validation_loss(unet, base.noise_schedule, dataset) != first


def test_the_validation_digest_covers_images_base_model_and_size() -> None:
    digests = {
        validation_digest("a", "b", 128, 128),
        validation_digest("c", "b", 128, 128),
        validation_digest("a", "c", 128, 128),
        validation_digest("a", "b", 96, 128),
    }
    assert len(digests) == 4
