"""The layers of diffusers' UNet and of CLIP's text encoders that take LoRA, in groups that adapters train together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

Groups = dict[str, dict[str, torch.nn.Module]]
"""By group, then by layer name, in the order of the model."""

ATTENTION, FEED_FORWARD, PROJECTION = "attention", "feed_forward", "projection"
CONVOLUTION, EMBEDDING = "convolution", "embedding"

UNET_GROUPS = {
    ATTENTION: r".*\.(to_q|to_k|to_v|to_out\.0)",
    FEED_FORWARD: r".*\.ff\.net\.(0\.proj|2)",
    PROJECTION: r".*\.proj_(in|out)",
    EMBEDDING: r".*\.time_emb_proj|(time|add)_embedding\.linear_[12]",
}
TEXT_ENCODER_GROUPS = {
    ATTENTION: r".*\.self_attn\.(q|k|v|out)_proj",
    FEED_FORWARD: r".*\.mlp\.fc[12]",
}


def unet_lora_layers(unet: torch.nn.Module) -> Groups:
    """Linear layers by name, and every other convolution, of a UNet2DConditionModel."""
    groups = _grouped(unet, UNET_GROUPS, lambda module: isinstance(module, torch.nn.Linear | torch.nn.Conv2d))
    linear = {name for layers in groups.values() for name in layers}
    groups[CONVOLUTION] = {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Conv2d) and name not in linear and _is_square(module)
    }
    return {group: layers for group, layers in groups.items() if layers}


def layers_by_ending(unet: torch.nn.Module, endings: Sequence[str]) -> dict[str, torch.nn.Module]:
    """The UNet's layers that take LoRA and whose name ends in one of the endings, for example `to_q` or `attn2.to_v`."""
    layers = {name: layer for layers in unet_lora_layers(unet).values() for name, layer in layers.items()}
    return {name: layer for name, layer in layers.items() if any(name == end or name.endswith("." + end) for end in endings)}


def text_encoder_lora_layers(text_encoder: torch.nn.Module) -> Groups:
    """Linear layers of a CLIPTextModel or a CLIPTextModelWithProjection."""
    return _grouped(text_encoder, TEXT_ENCODER_GROUPS, lambda module: isinstance(module, torch.nn.Linear))


def _grouped(model: torch.nn.Module, patterns: dict[str, str], takes_lora: Callable[[Any], bool]) -> Groups:
    modules = {name: module for name, module in model.named_modules() if takes_lora(module)}
    groups = {
        group: {name: module for name, module in modules.items() if re.fullmatch(pattern, name)}
        for group, pattern in patterns.items()
    }
    return {group: layers for group, layers in groups.items() if layers}


def _is_square(module: torch.nn.Conv2d) -> bool:
    return module.groups == 1 and module.dilation == (1, 1) and len(set(module.kernel_size)) == 1
