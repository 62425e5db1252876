"""What an exported file says of its base model."""

from __future__ import annotations

import pytest
import torch
from atelier_contracts.manifests import BundleManifest
from atelier_contracts.styles import Style
from atelier_trainer.adapter_formats.adapter_weights import LoraPair
from atelier_trainer.adapter_formats.write_adapter import describe_adapter
from atelier_trainer.families import FAMILIES


@pytest.mark.parametrize(
    ("family", "text_width", "prediction_type", "expected"),
    [
        ("sd", 768, "epsilon", ("stable-diffusion-v1/lora", "sd_v1", "False")),
        ("sd", 1024, "epsilon", ("stable-diffusion-v2-512/lora", "sd_v2", "True")),
        ("sd", 1024, "v_prediction", ("stable-diffusion-v2-768-v/lora", "sd_v2_v", "True")),
        ("sdxl", 2048, "epsilon", ("stable-diffusion-xl-v1-base/lora", "sdxl_base_v1-0", "False")),
        ("sd", 16, "v_prediction", (None, None, None)),
    ],
)
def test_the_architecture_follows_the_base_model(
    family: str, text_width: int, prediction_type: str, expected: tuple[str | None, str | None, str | None]
) -> None:
    bundle = BundleManifest(
        family=family,
        base="base",
        revision=None,
        source_digest="a" * 64,
        opset=20,
        latent_channels=4,
        latent_scale=1.0,
        vae_factor=8,
        size_multiple_px=64,
        native_size_px=512,
        prediction_type=prediction_type,
        text_encoders={},
        lora={"unet": {"attention": {"x.attn1.to_k": (320, 320, 1), "x.attn2.to_k": (text_width, 320, 1)}}},
        files={},
    )
    pairs = {"unet.x.attn2.to_k": LoraPair(torch.zeros(2, text_width), torch.zeros(320, 2), 2.0)}
    metadata = describe_adapter(pairs, FAMILIES[family], bundle, Style(), "ink-1")
    keys = ("modelspec.architecture", "ss_base_model_version", "ss_v2")
    assert tuple(metadata.get(key) for key in keys) == expected
