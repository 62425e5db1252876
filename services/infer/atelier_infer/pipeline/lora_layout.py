"""Where the LoRA matrices of each layer lie in a graph's inputs, and how adapters are concatenated.

Notation: b batch, r rank of one or sum of several adapters; of a layer, in and out features or channels, k side of its kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from atelier_contracts import names
from atelier_contracts.manifests import LoraGroups, LoraLayer

from atelier_infer.arrays import Array


class LayerWeights(NamedTuple):
    """Of one layer.

    Attributes:
        down: A, float32 [r, in * k * k].
        up: B, float32 [out, r].
        scale: alpha / r, the factor of the product.
    """

    down: Array
    up: Array
    scale: float


@dataclass(frozen=True)
class GroupWeights:
    """One adapter's weights of a group; layers with a smaller rank are padded with zeros, layers without LoRA are all zeros.

    Attributes:
        a: float32 [sum of in * k * k, r].
        b: float32 [sum of out, r].
        scale: the largest of the layers' scales; the others' ratio to it is in b.
    """

    a: Array
    b: Array
    scale: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[1])

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.b.nbytes


PartWeights = Mapping[str, GroupWeights]
"""One adapter's weights for one graph, by group; groups without any are missing."""


class LoraLayout:
    """The LoRA inputs of one graph.

    Args:
        groups: from the bundle's manifest.
        by_layer: whether each layer has inputs of its own, `names.layer_inputs`, instead of rows of its group's.

    Attributes:
        rows: number of rows of every A and B, by the input's name.
        scale_names: of the groups' scales.
    """

    def __init__(self, groups: LoraGroups, *, by_layer: bool = False) -> None:
        self.groups, self.by_layer = groups, by_layer
        self.names = {group: names.lora_inputs(group) for group in groups}
        self.scale_names = [inputs.scale for inputs in self.names.values()]
        self._group_rows: dict[str, int] = {}
        self.rows: dict[str, int] = {}
        for group, layers in groups.items():
            a, b, _ = self.names[group]
            self._group_rows[a] = sum(inner * kernel**2 for inner, _, kernel in layers.values())
            self._group_rows[b] = sum(outer for _, outer, _ in layers.values())
            if by_layer:
                for layer, (inner, outer, kernel) in layers.items():
                    self.rows |= zip(names.layer_inputs(group, layer), (inner * kernel**2, outer), strict=True)
        if not by_layer:
            self.rows = self._group_rows
        self._unused_groups: dict[str, GroupWeights] = {}

    def pack(self, layers: Mapping[str, LayerWeights]) -> dict[str, GroupWeights]:
        """The weights of one adapter as inputs.

        Args:
            layers: by layer name, each a layer of the graph with its shapes.
        """
        return {
            group: self._pack_group(group, shapes, layers)
            for group, shapes in self.groups.items()
            if not layers.keys().isdisjoint(shapes)
        }

    def uniform(self, rank: int) -> dict[str, GroupWeights]:
        """Zeros of one rank for every layer."""
        return {group: self._zeros(group, names.lora_rank(group, rank), 1.0) for group in self.groups}

    def arrays(self, parts: Sequence[PartWeights]) -> dict[str, Array]:
        """A and B of every group, or views of them for every layer, the adapters concatenated along r."""
        feeds = {}
        for group in self.groups:
            found = [part[group] for part in parts if group in part] or [self._unused(group)]
            inputs = self.names[group]
            feeds[inputs.a] = _concatenated([weights.a for weights in found])
            feeds[inputs.b] = _concatenated([weights.b for weights in found])
        return self._by_layer(feeds) if self.by_layer else feeds

    def scales(self, parts: Sequence[PartWeights], rows: Iterable[Mapping[int, float]]) -> dict[str, Array]:
        """Scale of every group, float32 [b, 1, r]; a row has its adapters' scales in their blocks, and 0 elsewhere.

        Args:
            parts: as given to `arrays`.
            rows: per batch row the weight of each adapter that it uses, by position in `parts`.
        """
        rows = list(rows)
        return {inputs.scale: self._scales(group, parts, rows) for group, inputs in self.names.items()}

    def _scales(self, group: str, parts: Sequence[PartWeights], rows: Sequence[Mapping[int, float]]) -> Array:
        blocks, end = {}, 0
        for position, part in enumerate(parts):
            if group in part:
                blocks[position] = slice(end, end := end + part[group].rank)
        scales: Array = np.zeros((len(rows), 1, end or self._unused(group).rank), np.float32)
        for row, weights in enumerate(rows):
            for position, weight in weights.items():
                if position in blocks:
                    scales[row, :, blocks[position]] = parts[position][group].scale * weight
        return scales

    def _by_layer(self, packed: Mapping[str, Array]) -> dict[str, Array]:
        views: dict[str, Array] = {}
        for group, layers in self.groups.items():
            start_a = start_b = 0
            for layer, (inner, outer, kernel) in layers.items():
                own = names.layer_inputs(group, layer)
                views[own.a] = packed[self.names[group].a][start_a : (start_a := start_a + inner * kernel**2)]
                views[own.b] = packed[self.names[group].b][start_b : (start_b := start_b + outer)]
        return views

    def _unused(self, group: str) -> GroupWeights:
        """What a group gets that no adapter touches; the same arrays each time, which IO binding then copies once."""
        if group not in self._unused_groups:
            self._unused_groups[group] = self._zeros(group, names.lora_rank(group, 0))
        return self._unused_groups[group]

    def _pack_group(self, group: str, shapes: Mapping[str, LoraLayer], layers: Mapping[str, LayerWeights]) -> GroupWeights:
        own = [layers[name] for name in shapes if name in layers]
        scale = max(layer.scale for layer in own)
        packed = self._zeros(group, names.lora_rank(group, max(layer.down.shape[0] for layer in own)), scale)
        start_a = start_b = 0
        for name, (inner, outer, kernel) in shapes.items():
            if layer := layers.get(name):
                rank = layer.down.shape[0]
                packed.a[start_a : start_a + inner * kernel**2, :rank] = layer.down.T
                packed.b[start_b : start_b + outer, :rank] = layer.up * np.float32(layer.scale / scale)
            start_a, start_b = start_a + inner * kernel**2, start_b + outer
        return packed

    def _zeros(self, group: str, rank: int, scale: float = 0.0) -> GroupWeights:
        shapes = [(self._group_rows[name], rank) for name in (self.names[group].a, self.names[group].b)]
        a, b = (np.zeros(shape, np.float32) for shape in shapes)
        return GroupWeights(a, b, scale)


def _concatenated(matrices: Sequence[Array]) -> Array:
    """Along r; a single one is returned as it is, so that IO binding recognizes it."""
    return matrices[0] if len(matrices) == 1 else np.concatenate(matrices, axis=1)
