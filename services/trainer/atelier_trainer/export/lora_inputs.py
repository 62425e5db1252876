"""Models whose LoRA weights are inputs of their forward pass, for the export.

Notation: b batch, r sum of the ranks of the adapters in the batch, k side of a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from atelier_contracts import names
from atelier_contracts.manifests import LoraGroups, LoraLayer
from torch.export import Dim
from torch.nn import functional as F

from atelier_trainer.families.lora_layers import Groups

EXAMPLE_RANK = 3
"""Of the inputs that a model is traced with."""


def layer_shape(layer: Any) -> LoraLayer:
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

    a: torch.Tensor
    b: torch.Tensor
    scale: torch.Tensor


@dataclass(frozen=True)
class LayerRows:
    """The rows of one layer in its group's inputs."""

    tensors: LoraTensors
    first_a: int
    first_b: int

    def a(self, rows: int) -> torch.Tensor:
        """[in * k * k, r]."""
        return self.tensors.a.narrow(0, self.first_a, rows)

    def b(self, rows: int) -> torch.Tensor:
        """[out, r]."""
        return self.tensors.b.narrow(0, self.first_b, rows)


class LoraLinear(torch.nn.Module):
    """y = W x + B ((A x) * scale)."""

    def __init__(self, linear: torch.nn.Linear, rows: LayerRows) -> None:
        super().__init__()
        self.linear, self.rows = linear, rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, tokens, in], or [b, in] for an embedding of the time step."""
        y: torch.Tensor = self.linear(x)
        flat = x.dim() == 2
        tokens = x.unsqueeze(1) if flat else x
        down = (tokens @ self.rows.a(self.linear.in_features)) * self.rows.tensors.scale  # [b, tokens, r]
        up = F.linear(down, self.rows.b(self.linear.out_features))
        return y + (up.squeeze(1) if flat else up)


class LoraConv(torch.nn.Module):
    """As LoraLinear, with A a convolution of the layer's own kernel, stride and padding, and B one of 1 x 1."""

    def __init__(self, conv: torch.nn.Conv2d, rows: LayerRows) -> None:
        super().__init__()
        self.conv, self.rows = conv, rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, in, h, w]."""
        y: torch.Tensor = self.conv(x)
        channels, kernel = self.conv.in_channels, self.conv.kernel_size[0]
        a, b = self.rows.a(channels * kernel**2), self.rows.b(self.conv.out_channels)
        scale = self.rows.tensors.scale.transpose(1, 2)  # [b, r, 1]
        if kernel == 1:
            down = a.transpose(0, 1) @ x.flatten(2)  # [b, r, h * w]
        else:
            weight = a.transpose(0, 1).reshape(a.shape[1], channels, kernel, kernel)
            down = F.conv2d(x, weight, None, self.conv.stride, self.conv.padding).flatten(2)
        return y + (b @ (down * scale)).reshape(y.shape)


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
        for layers in groups.values():
            shared, first_a, first_b = LoraTensors(*[torch.empty(0)] * 3), 0, 0
            tensors.append(shared)
            for name, layer in layers.items():
                inner, outer, kernel = layer_shape(layer)
                rows = LayerRows(shared, first_a, first_b)
                replaced[name] = layer
                model.set_submodule(name, (LoraLinear if isinstance(layer, torch.nn.Linear) else LoraConv)(layer, rows))
                first_a, first_b = first_a + inner * kernel**2, first_b + outer
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
        rank = Dim(f"r_{group}", min=names.LORA_MIN_RANK.get(group, 0), max=4096)
        sizes = sum(inner * kernel**2 for inner, _, kernel in layers.values()), sum(outer for _, outer, _ in layers.values())
        signature.names.extend(names.lora_inputs(group))
        signature.example.extend(torch.randn(*shape, EXAMPLE_RANK) for shape in ((sizes[0],), (sizes[1],), (rows, 1)))
        scale = {2: rank} if batch is None else {0: batch, 2: rank}
        signature.dynamic_shapes.extend([{1: rank}, {1: rank}, scale])
    return signature
