"""A base model of random weights has the published sizes, and loads like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from atelier_trainer.__main__ import main
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.families.lora_layers import unet_lora_layers
from atelier_trainer.synthetic import random_base
from diffusers import StableDiffusionPipeline

PUBLISHED = {  # parameters; Rombach et al.'s v1-5 and Stability's 2-1-base
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
    "sd21": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
}


@pytest.mark.parametrize("architecture", random_base.ARCHITECTURES)
def test_the_sizes_are_the_published_ones(architecture: str) -> None:
    with torch.device("meta"):
        parts = random_base.build_parts(architecture, (0, 1, 1))
    assert {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()} == PUBLISHED[architecture]
    attention = {"sd15": 128, "sd21": 128, "sdxl": 560}
    assert len(unet_lora_layers(parts["unet"])["attention"]) == attention[architecture]


def test_the_command_writes_a_folder_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the real ones, an eighth as wide and one layer of text: the full size takes 5 GB."""
    narrow = {
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "use_linear_projection": True,
        "block_out_channels": (32, 64, 64, 64),
    }
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_act": "gelu"}
    monkeypatch.setitem(random_base.UNET, "sd21", narrow)
    monkeypatch.setitem(random_base.TEXT, "sd21", {"text_encoder": text})
    command = ["base", str(tmp_path / "sd"), "--architecture=sd21", "--random"]
    assert main(command) == 0
    assert "M random parameters" in capsys.readouterr().err
    base = load_base_model(ModelOptions(pretrained_model_name_or_path=str(tmp_path / "sd")))
    assert (base.native_size_px, base.vae_factor, base.noise_schedule.config.prediction_type) == (512, 8, "epsilon")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "sd")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a cat", height=64, width=64, num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)
    assert main(command) == 2
    assert "must be empty or missing" in capsys.readouterr().err


@pytest.mark.full
def test_the_full_size(tmp_path: Path) -> None:
    """Writes and reads 5 GB."""
    assert main(["base", str(tmp_path / "sd"), "--architecture=sd21", "--random"]) == 0
    base = load_base_model(ModelOptions(pretrained_model_name_or_path=str(tmp_path / "sd")))
    assert sum(p.numel() for p in base.load_unet().parameters()) == PUBLISHED["sd21"]["unet"]
