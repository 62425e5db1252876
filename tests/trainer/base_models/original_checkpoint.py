"""Writes a diffusers pipeline as one checkpoint file with the names of the original code of Stable Diffusion.

Names and layouts: https://github.com/Stability-AI/generative-models and https://github.com/mlfoundations/open_clip.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from atelier_trainer.adapter_formats.layer_names import UNetBlocks, original_unet_name
from safetensors.torch import save_file

OUTSIDE = {"conv_norm_out": "out.0"}
RESNET_OF_VAE = {"conv_shortcut": "nin_shortcut"}
ATTENTION_OF_VAE = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
LAYER_OF_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
Tensors = dict[str, torch.Tensor]


def write_checkpoint(pipeline: Any, file: Path, *, dtype: torch.dtype = torch.float32, vae: bool = True) -> Path:
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in unet_tensors(pipeline.unet).items()}
    if vae:
        tensors |= {f"first_stage_model.{name}": tensor for name, tensor in vae_tensors(pipeline.vae).items()}
    if hasattr(pipeline, "text_encoder_2"):
        tensors |= clip_tensors(pipeline.text_encoder, "conditioner.embedders.0.transformer.text_model.")
        tensors |= open_clip_tensors(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
    else:
        tensors |= clip_tensors(pipeline.text_encoder, "cond_stage_model.transformer.text_model.")
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}, file)
    return file


def unet_tensors(unet: Any) -> Tensors:
    blocks = UNetBlocks.of_layers(f"unet.{name}" for name in unet.state_dict())
    renamed = {}
    for name, tensor in unet.state_dict().items():
        module, _, kind = name.rpartition(".")
        renamed[f"{OUTSIDE.get(module) or original_unet_name(module, blocks)}.{kind}"] = tensor
    return renamed


def vae_tensors(vae: Any) -> Tensors:
    levels = len(vae.config.block_out_channels)
    renamed = {}
    for name, tensor in vae.state_dict().items():
        new = name.replace("conv_norm_out", "norm_out")
        new = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", new)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{levels - 1 - int(found[1])}.block", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{levels - 1 - int(found[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", new)
        new = new.replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0." in new:
            inner, _, kind = new.partition("mid_block.attentions.0.")[2].rpartition(".")
            new = f"{new.partition('mid_block')[0]}mid.attn_1.{ATTENTION_OF_VAE[inner]}.{kind}"
            if kind == "weight" and inner != "group_norm":
                tensor = tensor[:, :, None, None]  # the original code's linear layers are 1x1 convolutions
        renamed[new] = tensor
    return renamed


def clip_tensors(text_encoder: Any, prefix: str) -> Tensors:
    return {prefix + name.removeprefix("text_model."): tensor for name, tensor in text_encoder.state_dict().items()}


def open_clip_tensors(text_encoder: Any, prefix: str) -> Tensors:
    state = {name.removeprefix("text_model."): tensor for name, tensor in text_encoder.state_dict().items()}
    renamed: Tensors = {prefix + "text_projection": state.pop("text_projection.weight").T}
    layers: dict[str, Tensors] = {}
    for name, tensor in state.items():
        if name in OPEN_CLIP:
            renamed[prefix + OPEN_CLIP[name]] = tensor
        else:
            number, _, inner = name.removeprefix("encoder.layers.").partition(".")
            layers.setdefault(number, {})[inner] = tensor
    for number, tensors in layers.items():
        block = f"{prefix}transformer.resblocks.{number}."
        for kind in ("weight", "bias"):
            joined = torch.cat([tensors.pop(f"self_attn.{letter}_proj.{kind}") for letter in "qkv"])
            renamed[f"{block}attn.in_proj_{kind}"] = joined
        for inner, tensor in tensors.items():
            module, _, kind = inner.rpartition(".")
            renamed[f"{block}{LAYER_OF_OPEN_CLIP[module]}.{kind}"] = tensor
    return renamed
