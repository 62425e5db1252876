"""What infer needs to know of a family of base models; each family is a module next to this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from atelier_infer.arrays import Array

TextOutputs = Mapping[str, Array]
"""Outputs of one text encoder for one text, by name, with a first dimension of 1."""

Conditioning = dict[str, Array]
"""What a row of the UNet is conditioned on, by the graph's input, with a first dimension of 1."""


@dataclass(frozen=True)
class Family:
    """A family of base models.

    Attributes:
        text_outputs: by text encoder, the names of its graph's outputs.
        unet_inputs: names of the UNet's inputs that hold the conditioning.
        conditioning: from the outputs of the text encoders, by part, and width and height in px to one row's conditioning.
    """

    text_outputs: Mapping[str, tuple[str, ...]]
    unet_inputs: tuple[str, ...]
    conditioning: Callable[[Mapping[str, TextOutputs], int, int], Conditioning]
