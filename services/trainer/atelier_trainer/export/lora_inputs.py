"""A UNet whose LoRA weights are inputs of its forward pass, for the export.

Notation: b batch, r sum of the ranks of the adapters in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn import functional as F

ATTENTION_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
EXPORTED_MODULE = "atelier_trainer.bundle"
"""The graphs' metadata, and so the bundle's digest, hold the wrappers' qualified names: they stay what they were."""


def lora_layers(unet: torch.nn.Module, suffixes: Sequence[str] = ATTENTION_LAYERS) -> dict[str, torch.nn.Linear]:
    """The UNet's linear layers whose name ends in one of the suffixes, in the order of the model."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Linear) and any(name.endswith("." + suffix) for suffix in suffixes)
    }


class LoraLinear(torch.nn.Module):
    """y = W x + ((x A) * lora_scale) B; `inputs` holds A, B and lora_scale while the graph is traced."""

    __module__ = EXPORTED_MODULE
    __qualname__ = "_LoraLinear"

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.inputs: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, scale = self.inputs  # [in, r], [r, out], [b, 1, r]
        return F.linear(x, self.linear.weight, self.linear.bias) + ((x @ a) * scale) @ b


class UNetWithLoraInputs(torch.nn.Module):
    __module__ = EXPORTED_MODULE
    __qualname__ = "_UNetWithLora"

    def __init__(self, unet: torch.nn.Module, layers: list[LoraLinear]) -> None:
        super().__init__()
        self.unet = unet
        self.layers = layers  # a plain list: the modules are registered through the UNet

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        lora_scale: torch.Tensor,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        for layer, a, b in zip(self.layers, weights[::2], weights[1::2], strict=True):
            layer.inputs[:] = (a, b, lora_scale)
        out: torch.Tensor = self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]
        return out


@contextmanager
def with_lora_inputs(unet: torch.nn.Module, layers: dict[str, torch.nn.Linear]) -> Iterator[UNetWithLoraInputs]:
    """Replaces the layers with ones that take LoRA inputs, and restores them afterwards."""
    wrapped = {name: LoraLinear(linear) for name, linear in layers.items()}
    for name, module in wrapped.items():
        unet.set_submodule(name, module)
    try:
        yield UNetWithLoraInputs(unet, list(wrapped.values()))
    finally:
        for name, linear in layers.items():
            unet.set_submodule(name, linear)
