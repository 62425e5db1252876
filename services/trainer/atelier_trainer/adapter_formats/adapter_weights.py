"""An adapter's weights in one form, whichever tool wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LoraPair:
    """The LoRA of one layer: W + alpha / r * up down.

    Notation: r rank, in and out features or channels of the layer, k side of its kernel.

    Attributes:
        down: [r, in] of a linear layer, [r, in, k, k] of a convolution.
        up: [out, r], or [out, r, 1, 1].
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        """The factor of the product."""
        return self.alpha / self.rank

    def delta(self) -> torch.Tensor:
        """What is added to the layer's weights, float64 [out, in * k * k]."""
        return self.scale * self.up.double().flatten(1) @ self.down.double().flatten(1)


AdapterWeights = Mapping[str, LoraPair]
"""By `part.layer` of the diffusers folder, for example `unet.mid_block.attentions.0.proj_in`."""


def by_part(pairs: AdapterWeights) -> dict[str, dict[str, LoraPair]]:
    """The pairs by part, then by the layer's name in it."""
    parts: dict[str, dict[str, LoraPair]] = {}
    for name, pair in pairs.items():
        part, _, layer = name.partition(".")
        parts.setdefault(part, {})[layer] = pair
    return parts
