"""Stable Diffusion XL: the states of two text encoders side by side, one text's embedding, and the image's sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from atelier_trainer.families.family import Architecture, Conditioning, Family, TextEncoderPart

SIZE_IDS = 6


def _encode_1(text_encoder: Any, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (text_encoder(ids, output_hidden_states=True).hidden_states[-2],)


def _encode_2(text_encoder: Any, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    outputs = text_encoder(ids, output_hidden_states=True)
    return outputs.hidden_states[-2], outputs.text_embeds


def _conditioning(outputs: Mapping[str, tuple[torch.Tensor, ...]]) -> Conditioning:
    (states_1,), (states_2, embeds) = outputs["text_encoder"], outputs["text_encoder_2"]
    return {"encoder_hidden_states": torch.cat([states_1, states_2], dim=-1), "text_embeds": embeds}


def _size_conditioning(geometry: torch.Tensor, width: int, height: int) -> Conditioning:
    """Original size, corner of the crop and target size, each as height and width. Source: arXiv:2307.01952, section 2.2."""
    target = torch.tensor([height, width], dtype=geometry.dtype).expand(len(geometry), 2)
    return {"time_ids": torch.cat([geometry, target], dim=-1)}


def _conditioning_example(unet: Any, tokens: int, rows: int) -> Conditioning:
    config = unet.config
    width = config.projection_class_embeddings_input_dim - SIZE_IDS * config.addition_time_embed_dim
    side = 8.0 * config.sample_size
    return {
        "encoder_hidden_states": torch.randn(rows, tokens, config.cross_attention_dim),
        "text_embeds": torch.randn(rows, width),
        "time_ids": torch.tensor([side, side, 0, 0, side, side]).repeat(rows, 1),
    }


def _prompt_arguments(conditioning: Conditioning) -> dict[str, torch.Tensor]:
    return {"prompt_embeds": conditioning["encoder_hidden_states"], "pooled_prompt_embeds": conditioning["text_embeds"]}


SDXL = Family(
    name="sdxl",
    pipeline_class=StableDiffusionXLPipeline,
    pipeline_arguments={"add_watermarker": False},
    text_encoders=(
        TextEncoderPart("text_encoder", "tokenizer", CLIPTextModel, ("hidden_states",), _encode_1),
        TextEncoderPart(
            "text_encoder_2", "tokenizer_2", CLIPTextModelWithProjection, ("hidden_states", "text_embeds"), _encode_2
        ),
    ),
    conditioning=_conditioning,
    size_conditioning=_size_conditioning,
    conditioning_example=_conditioning_example,
    prompt_arguments=_prompt_arguments,
    kohya_original_names=True,
    kohya_prefixes={"text_encoder": ("lora_te1",), "text_encoder_2": ("lora_te2",)},
    comfyui_encoders={"text_encoder": ("clip_l",), "text_encoder_2": ("clip_g",)},
    checkpoint_encoders={"text_encoder": "conditioner.embedders.0.", "text_encoder_2": "conditioner.embedders.1."},
    architectures={
        (2048, "epsilon"): Architecture(
            "stable-diffusion-xl-v1-base/lora", "sdxl_base_v1-0", "stabilityai/stable-diffusion-xl-base-1.0"
        ),
    },
)
