"""The adapter is small, and stock diffusers reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest
from atelier_trainer.export import adapter
from atelier_trainer.export.manifests import write_adapter_manifest
from atelier_trainer.families.lora_layers import layers_by_ending, unet_lora_layers
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open

from ..conftest import TINY

pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy

SD21_UNET = {
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}  # the rest is UNet2DConditionModel's default, as in Stable Diffusion 2.1


def randomize(unet: UNet2DConditionModel, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in (p for p in unet.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)


def step(unet: UNet2DConditionModel) -> Any:
    generator = torch.Generator().manual_seed(0)
    sample, states = torch.randn(1, 8, 16, 16, generator=generator), torch.randn(1, 48, 128, generator=generator)
    with torch.inference_mode():
        return unet(sample, 300, states).sample


def test_injecting_trains_lora_alone_and_changes_no_output(pipeline: StableDiffusionPipeline) -> None:
    plain, before = step(pipeline.unet), len(layers_by_ending(pipeline.unet, adapter.ATTENTION_LAYERS))
    parameters = adapter.inject_lora(pipeline.unet, rank=4, alpha=4.0)
    assert len(parameters) == 2 * before
    assert all(parameter.dtype == torch.float32 for parameter in parameters)
    torch.testing.assert_close(step(pipeline.unet), plain, rtol=0, atol=0)


def test_stock_diffusers_loads_weights_rank_and_alpha(pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    adapter.inject_lora(pipeline.unet, rank=4, alpha=16.0)
    randomize(pipeline.unet)
    expected = step(pipeline.unet)
    adapter.save_weights(pipeline.unet, tmp_path)
    stock = StableDiffusionPipeline.from_pretrained(TINY, torch_dtype=torch.float32)
    assert not torch.allclose(step(stock.unet), expected, atol=1e-2)
    stock.load_lora_weights(tmp_path)
    torch.testing.assert_close(step(stock.unet), expected, rtol=1e-5, atol=1e-5)


def test_weights_have_diffusers_names(pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    adapter.inject_lora(pipeline.unet, rank=2, alpha=2.0)
    with safe_open(adapter.save_weights(pipeline.unet, tmp_path), "np") as weights:
        keys = set(weights.keys())
        shape = weights.get_tensor("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight").shape
    assert shape == (2, 128)
    assert all(key.startswith("unet.") and key.endswith((".lora_A.weight", ".lora_B.weight")) for key in keys)


def test_the_manifest_describes_the_weights(
    pipeline: StableDiffusionPipeline, bundle: tuple[Path, BundleManifest], tmp_path: Path
) -> None:
    adapter.inject_lora(pipeline.unet, rank=2, alpha=3.0)
    weights = adapter.save_weights(pipeline.unet, tmp_path)
    pairs = adapter.lora_pairs(pipeline.unet)
    manifest = write_adapter_manifest(weights, bundle[1], pairs, run_id="r", dataset_digest="a" * 64)
    assert {(layer.rank, layer.alpha) for layer in manifest.layers.values()} == {(2, 3.0)}
    assert set(manifest.layers) == {f"unet.{layer}" for layer in bundle[1].lora["unet"]["attention"]}
    assert manifest.bundle_digest == bundle[1].digest()
    assert (tmp_path / names.ADAPTER_FILE).exists()
    assert str(tmp_path) not in (tmp_path / names.ADAPTER_FILE).read_text()
    randomize(pipeline.unet)
    changed = write_adapter_manifest(
        adapter.save_weights(pipeline.unet, tmp_path),
        bundle[1],
        adapter.lora_pairs(pipeline.unet),
        run_id="r",
        dataset_digest="a" * 64,
    )
    assert changed.digest() != manifest.digest()


def share(unet: UNet2DConditionModel, rank: int) -> float:
    """Parameters of an adapter on the attention over those of the whole UNet: the merged file in the same dtype."""
    adapters = sum(rank * (layer.in_features + layer.out_features) for layer in unet_lora_layers(unet)["attention"].values())
    return adapters / sum(parameter.numel() for parameter in unet.parameters())


def test_an_adapter_is_a_small_share_of_the_unet(pipeline: StableDiffusionPipeline) -> None:
    assert share(pipeline.unet, rank=16) < 0.05
    with torch.device("meta"):
        full = UNet2DConditionModel(**SD21_UNET)
    assert sum(parameter.numel() for parameter in full.parameters()) == pytest.approx(866e6, rel=0.001)
    assert share(full, rank=4) < 0.005
    assert share(full, rank=16) < 0.015
