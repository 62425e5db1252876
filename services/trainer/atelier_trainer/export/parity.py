"""Whether ONNX Runtime computes with the adapter what torch computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest

from atelier_trainer.errors import ExportError
from atelier_trainer.export.adapter import lora_scale, lora_weights

PARITY_BOUND = 1e-4  # of the largest |torch|; 1.2e-6 is usual in float32


def measure_parity(unet: Any, bundle_dir: Path, bundle: BundleManifest) -> tuple[bool, float]:
    """Runs one UNet step of two rows at two time steps through ONNX Runtime and through torch, both with the adapter.

    Args:
        unet: with the adapter injected, float32, on the CPU.
        bundle_dir: folder that holds unet.onnx.
        bundle: its manifest.

    Returns:
        Whether both outputs are finite, and the largest absolute difference over the largest absolute torch value.

    Raises:
        ExportError: the difference is above PARITY_BOUND: infer would not generate what was trained.
    """
    generator = torch.Generator().manual_seed(0)
    side = bundle.native_size_px // bundle.vae_factor
    sample = torch.randn(2, bundle.latent_channels, side, side, generator=generator)
    states = torch.randn(2, bundle.text_tokens, unet.config.cross_attention_dim, generator=generator)
    times = torch.tensor([999.0, 1.0])
    feeds = {
        "sample": sample.numpy(),
        "timestep": times.numpy(),
        "encoder_hidden_states": states.numpy(),
        **_lora_feeds(unet, bundle),
    }
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(str(bundle_dir / names.UNET_FILE), options, providers=["CPUExecutionProvider"])
    computed = session.run(None, feeds)[0]
    with torch.inference_mode():
        expected = unet(sample, times, states).sample.numpy()
    finite = bool(np.isfinite(computed).all() and np.isfinite(expected).all())
    error = float(np.abs(computed - expected).max() / np.abs(expected).max()) if finite else float("inf")
    if finite and error > PARITY_BOUND:
        raise ExportError(
            f"ONNX Runtime and torch differ by {error:.1e} of the largest value; at most {PARITY_BOUND:.0e} is allowed"
        )
    return finite, error


def _lora_feeds(unet: Any, bundle: BundleManifest) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """The graph's LoRA inputs; a layer without LoRA gets zeros, as in infer."""
    rank, weights = unet.peft_config["default"].r, lora_weights(unet)
    feeds = {names.LORA_SCALE: np.full((2, 1, rank), lora_scale(unet), np.float32)}
    for layer, (inputs, outputs) in bundle.lora_targets.items():
        name_a, name_b = names.lora_inputs(layer)
        trained = f"{layer}.lora_A.weight" in weights
        feeds[name_a] = weights[f"{layer}.lora_A.weight"].numpy().T if trained else np.zeros((inputs, rank), np.float32)
        feeds[name_b] = weights[f"{layer}.lora_B.weight"].numpy().T if trained else np.zeros((rank, outputs), np.float32)
    return feeds
