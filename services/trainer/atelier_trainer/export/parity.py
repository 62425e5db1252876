"""Whether ONNX Runtime computes with the adapter what torch computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest, LoraGroups

from atelier_trainer.adapter_formats.adapter_weights import AdapterWeights, LoraPair
from atelier_trainer.errors import ExportError
from atelier_trainer.families.family import Family, unet_arguments

PARITY_BOUND = 1e-4  # of the largest |torch|; 1.2e-6 is usual in float32
Feeds = dict[str, np.ndarray[Any, np.dtype[Any]]]
TIMES = (999.0, 1.0)
"""Of the two rows."""


def measure_parity(
    models: Mapping[str, Any], family: Family, pairs: AdapterWeights, bundle_dir: Path, bundle: BundleManifest
) -> tuple[bool, float]:
    """Runs one step of the UNet, and each text encoder, through ONNX Runtime and through torch, both with the adapter.

    Args:
        models: the UNet and the text encoders that the adapter changes, by part, with the adapter in their layers, float32, on
            the CPU.
        family: of the base model.
        pairs: the adapter's weights.
        bundle_dir: folder that holds the graphs.
        bundle: its manifest.

    Returns:
        Whether all outputs are finite, and the largest absolute difference over the largest absolute torch value.

    Raises:
        ExportError: the difference is above PARITY_BOUND: infer would not generate what was trained.
    """
    outputs = [_unet_outputs(models["unet"], family, pairs, bundle_dir, bundle)]
    for part in family.text_encoders:
        if part.part in models:
            encoder, info = models[part.part], bundle.text_encoders[part.part]
            ids = torch.arange(info.tokens).remainder(encoder.config.vocab_size).unsqueeze(0)
            with torch.inference_mode():
                expected = part.encode(encoder, ids)
            feeds = {"input_ids": ids.numpy(), **lora_feeds(bundle.lora[part.part], pairs, part.part, 1)}
            computed = _session(bundle_dir / info.graph).run(None, feeds)
            outputs += [(one, other.numpy()) for one, other in zip(computed, expected, strict=True)]
    finite = all(bool(np.isfinite(array).all()) for pair in outputs for array in pair)
    if not finite:
        return False, float("inf")
    error = max(float(np.abs(computed - expected).max() / np.abs(expected).max()) for computed, expected in outputs)
    if error > PARITY_BOUND:
        raise ExportError(
            f"ONNX Runtime and torch differ by {error:.1e} of the largest value; at most {PARITY_BOUND:.0e} is allowed"
        )
    return True, error


def _unet_outputs(
    unet: Any, family: Family, pairs: AdapterWeights, bundle_dir: Path, bundle: BundleManifest
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """ONNX Runtime's output and torch's."""
    side, rows = bundle.native_size_px // bundle.vae_factor, len(TIMES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sample = torch.randn(rows, bundle.latent_channels, side, side)
        tokens = min(encoder.tokens for encoder in bundle.text_encoders.values())
        conditioning = family.conditioning_example(unet, tokens, rows)
    times = torch.tensor(TIMES)
    feeds = {
        "sample": sample.numpy(),
        "timestep": times.numpy(),
        **{name: tensor.numpy() for name, tensor in conditioning.items()},
        **lora_feeds(bundle.lora["unet"], pairs, "unet", rows),
    }
    computed = _session(bundle_dir / names.UNET_FILE).run(None, feeds)[0]
    with torch.inference_mode():
        expected = unet(sample, times, **unet_arguments(conditioning)).sample.numpy()
    return computed, expected


def _session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def lora_feeds(groups: LoraGroups, pairs: AdapterWeights, part: str, rows: int) -> Feeds:
    """The LoRA inputs of one graph for one adapter; see `names.lora_inputs`.

    Args:
        groups: from the bundle's manifest.
        pairs: the adapter's weights.
        part: whose graph it is.
        rows: of the batch.
    """
    feeds: Feeds = {}
    for group, layers in groups.items():
        own = {layer: pairs[f"{part}.{layer}"] for layer in layers if f"{part}.{layer}" in pairs}
        rank = names.lora_rank(group, max((pair.rank for pair in own.values()), default=0))
        inputs = names.lora_inputs(group)
        sizes = {layer: (inner * kernel**2, outer) for layer, (inner, outer, kernel) in layers.items()}
        feeds[inputs.a] = np.concatenate([_rows(own, layer, rows_a, rank, "down") for layer, (rows_a, _) in sizes.items()])
        feeds[inputs.b] = np.concatenate([_rows(own, layer, rows_b, rank, "up") for layer, (_, rows_b) in sizes.items()])
        feeds[inputs.scale] = np.ones((rows, 1, rank), np.float32)
    return feeds


def _rows(own: Mapping[str, LoraPair], layer: str, rows: int, rank: int, half: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 [rows, rank] of one layer; `up` contains the scale."""
    found = np.zeros((rows, rank), np.float32)
    if pair := own.get(layer):
        matrix = pair.down.flatten(1).T if half == "down" else pair.up.flatten(1) * pair.scale
        found[:, : pair.rank] = matrix.float().numpy()
    return found
