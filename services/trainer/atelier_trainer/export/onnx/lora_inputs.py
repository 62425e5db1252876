"""Models whose LoRA weights are inputs of their forward pass, for the export.

Notation: b batch, r sum of the ranks of the adapters in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from atelier_contracts import manifests, names
from atelier_contracts.manifests import LoraGroups
from torch.export import Dim

from atelier_trainer.export.onnx.lora_operators import DOMAIN, OPERATOR
from atelier_trainer.families.lora_layers import Groups

EXAMPLE_RANK = 3
"""Of the inputs that a model is traced with."""


def layer_shape(layer: Any) -> manifests.LoraLayer:
    """Input and output features or channels, and the side of the kernel."""
    if isinstance(layer, torch.nn.Linear):
        return layer.in_features, layer.out_features, 1
    return layer.in_channels, layer.out_channels, layer.kernel_size[0]


def layer_shapes(groups: Groups) -> LoraGroups:
    """The groups as bundle.json has them."""
    return {group: {name: layer_shape(layer) for name, layer in layers.items()} for group, layers in groups.items()}


@dataclass
class LoraTensors:
    """The inputs of one group while the graph is traced; see `names.lora_inputs` for their shapes."""

    group: str
    a: torch.Tensor
    b: torch.Tensor
    scale: torch.Tensor


class LoraLayer(torch.nn.Module):
    """A layer with LoRA: y = W x + B ((A x) * scale), where A is a convolution like W and B one of 1 x 1 if W is a convolution.

    It exports as the layer and one node, which `lora_operators` replaces, and computes nothing else in torch.

    Args:
        name: of the layer.
        layer: a linear layer or a convolution.
        tensors: of its group.
    """

    def __init__(self, name: str, layer: torch.nn.Linear | torch.nn.Conv2d, tensors: LoraTensors) -> None:
        super().__init__()
        self.layer, self.tensors = layer, tensors
        self.attributes: dict[str, Any] = {"group": tensors.group, "layer": name}
        if isinstance(layer, torch.nn.Conv2d):
            vertical, horizontal = (int(pad) for pad in layer.padding)
            self.attributes |= {"stride": layer.stride[0], "pads": [vertical, horizontal, vertical, horizontal]}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, tokens, in], [b, in] for an embedding of the time step, or [b, in, h, w]."""
        y: torch.Tensor = self.layer(x)
        inputs = (y, x, self.tensors.a, self.tensors.b, self.tensors.scale)
        operator, attributes = f"{DOMAIN}::{OPERATOR}", self.attributes | {"dimensions": x.dim()}
        changed: torch.Tensor = torch.onnx.ops.symbolic(operator, inputs, attributes, dtype=y.dtype, shape=y.shape, version=1)
        return changed


class ModelWithLoraInputs(torch.nn.Module):
    """Takes the inputs of the model, then those of each group.

    Args:
        model: its layers were replaced.
        groups: what the layers read, in the order of the inputs.
        own_inputs: number of the model's own inputs.
    """

    def __init__(self, model: torch.nn.Module, groups: list[LoraTensors], own_inputs: int) -> None:
        super().__init__()
        self.model, self.groups, self.own_inputs = model, groups, own_inputs

    def forward(self, *inputs: torch.Tensor) -> Any:
        lora = inputs[self.own_inputs :]
        for group, a, b, scale in zip(self.groups, lora[::3], lora[1::3], lora[2::3], strict=True):
            group.a, group.b, group.scale = a, b, scale
        return self.model(*inputs[: self.own_inputs])


@dataclass(frozen=True)
class LoraSignature:
    """The LoRA inputs of a graph, in the order of its arguments."""

    names: list[str]
    example: list[torch.Tensor]
    dynamic_shapes: list[dict[int, Any]]


@contextmanager
def lora_inputs(model: torch.nn.Module, wrapper: torch.nn.Module, groups: Groups, own_inputs: int) -> Iterator[torch.nn.Module]:
    """Replaces the layers of `model` with ones that take LoRA inputs, and restores them afterwards.

    Args:
        model: holds the layers.
        wrapper: calls the model; what is exported.
        groups: the layers.
        own_inputs: number of arguments of the wrapper.

    Yields:
        A module whose arguments are those of the wrapper and those that `lora_signature` lists.
    """
    tensors, replaced = list[LoraTensors](), dict[str, Any]()
    try:
        for group, layers in groups.items():
            shared = LoraTensors(group, *[torch.empty(0)] * 3)
            tensors.append(shared)
            for name, layer in layers.items():
                replaced[name] = layer
                model.set_submodule(name, LoraLayer(name, layer, shared))
        yield ModelWithLoraInputs(wrapper, tensors, own_inputs)
    finally:
        for name, layer in replaced.items():
            model.set_submodule(name, layer)


def lora_signature(groups: Groups, batch: Any, rows: int) -> LoraSignature:
    """Names, examples and free dimensions of the LoRA inputs.

    Args:
        groups: the layers.
        batch: first dimension of the scales, as torch.export takes it; None where it is fixed.
        rows: of the example.
    """
    signature = LoraSignature([], [], [])
    for group, layers in layer_shapes(groups).items():
        rank = Dim(f"r_{group}", min=names.UNUSED_RANK.get(group, 0), max=4096)
        sizes = sum(inner * kernel**2 for inner, _, kernel in layers.values()), sum(outer for _, outer, _ in layers.values())
        signature.names.extend(names.lora_inputs(group))
        signature.example.extend(torch.randn(*shape, EXAMPLE_RANK) for shape in ((sizes[0],), (sizes[1],), (rows, 1)))
        scale = {2: rank} if batch is None else {0: batch, 2: rank}
        signature.dynamic_shapes.extend([{1: rank}, {1: rank}, scale])
    return signature
