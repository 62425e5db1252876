"""rsLoRA on some layers: infer, stock diffusers and the merged ONNX graph compute the same."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest
from atelier_trainer.config.options import TrainOptions
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from ..conftest import run_training

pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy


def test_manifest_weights_file_and_merged_graph_agree(small: TrainOptions, small_base: Path) -> None:
    """infer scales by the manifest's alpha / rank; diffusers reads alpha and rsLoRA from the file's metadata."""
    options = small.with_flags(
        use_rslora=True, alpha=3.0, rank=4, lora_targets="attn2.to_k,to_v", export="merged", register="rs"
    )
    result = run_training(options, publish=True)
    assert result.version == 1
    folder = Path(options.output.output_dir)
    manifest = AdapterManifest.model_validate_json((folder / names.ADAPTER_FILE).read_text())
    assert all(layer.alpha / layer.rank == pytest.approx(3.0 / 2.0) for layer in manifest.layers.values())
    assert {name.rpartition(".attn")[2] for name in manifest.layers} == {"2.to_k", "1.to_v", "2.to_v"}
    plain, stock = (StableDiffusionPipeline.from_pretrained(small_base, safety_checker=None) for _ in range(2))
    stock.load_lora_weights(folder)
    generator = torch.Generator().manual_seed(0)
    sample, states = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 16, 16, generator=generator)
    weights = load_file(folder / names.WEIGHTS_FILE)
    for name, layer in manifest.layers.items():
        module = plain.unet.get_submodule(name.removeprefix("unet."))
        a, b = (weights[f"{name}.lora_{side}.weight"] for side in "AB")
        module.weight.data += layer.alpha / layer.rank * b @ a
    with torch.inference_mode():
        expected = plain.unet(sample, 300, states).sample
        torch.testing.assert_close(stock.unet(sample, 300, states).sample, expected, rtol=1e-4, atol=1e-5)
    mlflow.set_tracking_uri(options.tracking.tracking_uri)
    client = mlflow.MlflowClient(options.tracking.tracking_uri)
    run = client.get_run(result.run_id)
    (merged,) = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{result.run_id}' AND name = 'merged'")
    inputs = {"sample": sample.numpy(), "timestep": np.array([300.0], np.float32), "encoder_hidden_states": states.numpy()}
    computed = mlflow.pyfunc.load_model(merged.model_uri).predict(inputs)
    np.testing.assert_allclose(computed["out_sample"], expected.numpy(), rtol=1e-3, atol=1e-4)
