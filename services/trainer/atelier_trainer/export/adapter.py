"""LoRA weights in the UNet, and in a file as diffusers writes it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from atelier_contracts import names
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from atelier_trainer.adapter_formats.adapter_weights import AdapterWeights, LoraPair, by_part
from atelier_trainer.adapter_formats.write_adapter import configuration_values, peft_configuration
from atelier_trainer.errors import CheckpointError, OptionError
from atelier_trainer.families.lora_layers import layers_by_ending

ATTENTION_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")


def inject_lora(
    unet: Any,
    rank: int,
    alpha: float,
    *,
    targets: Sequence[str] = ATTENTION_LAYERS,
    dropout: float = 0.0,
    rslora: bool = False,
) -> list[torch.nn.Parameter]:
    """Freezes the UNet and adds peft's LoRA to the layers; returns the trainable parameters (float32).

    Args:
        unet: diffusers' UNet2DConditionModel.
        rank: of the matrices.
        alpha: the scale is alpha / rank, or alpha / sqrt(rank) with rslora.
        targets: endings of layer names, for example `to_q`, `attn2.to_v` or `ff.net.0.proj`.
        dropout: on the layers' inputs.
        rslora: see alpha. Source: Kalajdzievski 2023, arXiv:2312.03732.

    Raises:
        OptionError: an ending matches no layer that takes LoRA.
    """
    for target in targets:
        if not layers_by_ending(unet, [target]):
            raise OptionError(
                f"--lora_targets: no layer that takes LoRA ends in {target!r}; choose from {', '.join(ATTENTION_LAYERS)}, with "
                "or without attn1. or attn2. in front, ff.net.0.proj, ff.net.2, proj_in, proj_out, time_emb_proj, conv1, conv2"
            )
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, use_rslora=rslora, init_lora_weights="gaussian",
            target_modules=list(targets),
        )
    )  # fmt: skip
    cast_training_params(unet)
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def lora_scale(unet: Any) -> float:
    """The factor of `(x A) B`."""
    config = unet.peft_config["default"]
    return float(config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r))


def lora_weights(unet: Any) -> dict[str, torch.Tensor]:
    """A copy of the LoRA weights on the CPU in float32, by peft's names."""
    return {name: value.detach().float().cpu().clone() for name, value in get_peft_model_state_dict(unet).items()}


def lora_pairs(unet: Any) -> dict[str, LoraPair]:
    """The same weights by layer, with the alpha that gives the UNet's own scale."""
    weights, scale = lora_weights(unet), lora_scale(unet)
    layers = {name.removesuffix(".lora_A.weight") for name in weights if name.endswith(".lora_A.weight")}
    pairs = {}
    for layer in sorted(layers):
        down = weights[f"{layer}.lora_A.weight"]
        pairs[f"unet.{layer}"] = LoraPair(down, weights[f"{layer}.lora_B.weight"], scale * down.shape[0])
    return pairs


def set_lora_weights(unet: Any, weights: dict[str, torch.Tensor]) -> None:
    """Sets the LoRA weights to those that `lora_weights` or `load_weights` returned.

    Raises:
        CheckpointError: the names are not those of this UNet's LoRA layers.
    """
    own = get_peft_model_state_dict(unet)
    if own.keys() != weights.keys():
        raise CheckpointError(f"the LoRA weights belong to other layers: {len(weights)} tensors, and the UNet has {len(own)}")
    set_peft_model_state_dict(unet, weights)


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that `save_weights` wrote, by peft's names."""
    return {name.removeprefix("unet."): value for name, value in load_file(folder / names.WEIGHTS_FILE).items()}


def save_pairs(pairs: AdapterWeights, pipeline_class: Any, folder: Path) -> Path:
    """Writes pytorch_lora_weights.safetensors in the names of diffusers, in float16 where that holds every weight exactly.

    Args:
        pairs: of any part.
        pipeline_class: diffusers' class of the base model.
        folder: gets the file.
    """
    half = all(torch.equal(one.half().float(), one.float()) for pair in pairs.values() for one in (pair.down, pair.up))
    dtype, arguments = torch.float16 if half else torch.float32, dict[str, Any]()
    for part, layers in by_part(pairs).items():
        matrices = {f"{layer}.lora_A.weight": pair.down for layer, pair in layers.items()}
        matrices |= {f"{layer}.lora_B.weight": pair.up for layer, pair in layers.items()}
        arguments[f"{part}_lora_layers"] = {name: tensor.to(dtype).contiguous() for name, tensor in matrices.items()}
        arguments[f"{part}_lora_adapter_metadata"] = peft_configuration(layers)
    pipeline_class.save_lora_weights(folder, **arguments)
    _sort_metadata(folder / names.WEIGHTS_FILE)
    return folder / names.WEIGHTS_FILE


def save_weights(unet: Any, folder: Path) -> Path:
    """Writes pytorch_lora_weights.safetensors with rank and alpha in its metadata; stock diffusers loads it.

    The same weights give the same bytes in every process.
    """
    metadata = configuration_values(unet.peft_config["default"])
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=lora_weights(unet), unet_lora_adapter_metadata=metadata)
    _sort_metadata(folder / names.WEIGHTS_FILE)
    return folder / names.WEIGHTS_FILE


def _sort_metadata(file: Path) -> None:
    """Sorts the header's metadata, which safetensors writes in an order that differs between processes.

    Layout: 8 bytes of header length, little endian; the header as JSON, padded with spaces; the tensors.
    Source: https://github.com/huggingface/safetensors, "Format".
    """
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    partial = file.with_suffix(".part")
    partial.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    partial.replace(file)
