"""Inputs of exported graphs, and the same LoRA in torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest, LoraGroups
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import GraphOptimizationLevel
from torch.nn import functional as F

UNETS = (names.UNET_FILE, names.FUSED_UNET_FILE, names.CPU_UNET_FILE)


def session(path: Path, level: GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL) -> InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(bundle: BundleManifest, rows: int, side: int, rank: int, seed: int = 0, width: int = 128) -> dict[str, NDArray[Any]]:
    """Random inputs; a rank of its own for each group, and the smallest ones for rank 0."""
    draw = np.random.default_rng(seed)
    tokens = bundle.text_encoders["text_encoder"].tokens
    inputs = {
        "sample": draw.standard_normal((rows, bundle.latent_channels, side, side), np.float32),
        "timestep": np.linspace(1, 999, rows).astype(np.float32),
        "encoder_hidden_states": draw.standard_normal((rows, tokens, width), np.float32),
    }
    for more, (group, layers) in enumerate(bundle.lora["unet"].items()):
        own = names.lora_rank(group, rank + more if rank > 1 else rank)
        a, b, scale = names.lora_inputs(group)
        strength = 0.05 if rank else 0
        inputs[a] = draw.standard_normal((sum(inner * k * k for inner, _, k in layers.values()), own), np.float32) * strength
        inputs[b] = draw.standard_normal((sum(outer for _, outer, _ in layers.values()), own), np.float32) * strength
        inputs[scale] = draw.standard_normal((rows, 1, own), np.float32)
    return inputs


def by_layer(inputs: dict[str, np.ndarray], groups: LoraGroups) -> dict[str, np.ndarray]:
    """The same inputs for the graph whose layers have inputs of their own."""
    changed = dict(inputs)
    for group, layers in groups.items():
        a, b = (changed.pop(name) for name in names.lora_inputs(group)[:2])
        ends_a = np.cumsum([inner * kernel**2 for inner, _, kernel in layers.values()])
        ends_b = np.cumsum([outer for _, outer, _ in layers.values()])
        for layer, own_a, own_b in zip(layers, np.split(a, ends_a[:-1]), np.split(b, ends_b[:-1]), strict=True):
            changed |= zip(names.layer_inputs(group, layer), (own_a, own_b), strict=True)
    return changed


def inputs_of(file: str, inputs: dict[str, np.ndarray], manifest: BundleManifest) -> dict[str, np.ndarray]:
    return by_layer(inputs, manifest.lora["unet"]) if file == names.CPU_UNET_FILE else inputs


def add_lora_hooks(model: torch.nn.Module, groups: LoraGroups, inputs: dict[str, np.ndarray]) -> None:
    """Computes in torch, layer by layer, what the graph's inputs say."""
    for group, layers in groups.items():
        a, b, scale = (torch.from_numpy(inputs[name]) for name in names.lora_inputs(group))
        first_a = first_b = 0
        for name, (inner, outer, kernel) in layers.items():
            rows_a, first_a = slice(first_a, first_a + inner * kernel**2), first_a + inner * kernel**2
            rows_b, first_b = slice(first_b, first_b + outer), first_b + outer
            layer = model.get_submodule(name)
            down, up = a[rows_a].T.reshape(-1, inner, kernel, kernel), b[rows_b]
            if isinstance(layer, torch.nn.Conv2d):
                hook = partial(convolution_hook, down=down, up=up[..., None, None], scale=scale.transpose(1, 2)[..., None])
            else:
                hook = partial(linear_hook, down=down[..., 0, 0], up=up, scale=scale)
            layer.register_forward_hook(hook)


def linear_hook(layer: Any, x: tuple[Any], y: Any, *, down: Any, up: Any, scale: Any) -> Any:
    return y + ((x[0] @ down.T) * (scale if x[0].dim() == 3 else scale[:, 0])) @ up.T


def convolution_hook(layer: Any, x: tuple[Any], y: Any, *, down: Any, up: Any, scale: Any) -> Any:
    return y + F.conv2d(F.conv2d(x[0], down, None, layer.stride, layer.padding) * scale, up)
