"""Full-size Stable Diffusion folders with random weights: to measure speed and memory without the real weights.

The architectures are the published configurations of `stable-diffusion-v1-5`, `stable-diffusion-2-1-base` and
`stable-diffusion-xl-base-1.0`. The tokenizer knows the words of our own captions; the text encoders have the full
vocabulary's size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig

from atelier_trainer.errors import OptionError
from atelier_trainer.families.sd import SD
from atelier_trainer.families.sdxl import SDXL
from atelier_trainer.synthetic.scenes.captions import VOCABULARY
from atelier_trainer.synthetic.tiny_base.architecture import build_tokenizer

TOKENS, CLIP_VOCABULARY = 77, 49_408
UNET: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "use_linear_projection": True,
    },
}
CLIP_L: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
}
TEXT: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {"text_encoder": CLIP_L},
    "sd21": {
        "text_encoder": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
        }
    },
    "sdxl": {
        "text_encoder": CLIP_L,
        "text_encoder_2": {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "hidden_act": "gelu",
            "projection_dim": 1280,
        },
    },
}
SAMPLE_SIZE = {"sd15": 64, "sd21": 64, "sdxl": 128}
"""Side of the latents at the native size."""
LATENT_SCALE = {"sd15": 0.18215, "sd21": 0.18215, "sdxl": 0.13025}
FAMILY_OF = {"sd15": SD, "sd21": SD, "sdxl": SDXL}
ARCHITECTURES = tuple(UNET)


def write_random_base(out: Path, architecture: str, seed: int) -> int:
    """Writes a pipeline folder in float32 safetensors; returns its number of parameters.

    Args:
        out: folder to create; must be empty if it exists.
        architecture: one of ARCHITECTURES.
        seed: same seed, same weights.

    Raises:
        OptionError: the folder is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise OptionError(f"{str(out)!r} must be empty or missing; take another folder")
    torch.manual_seed(seed)
    family = FAMILY_OF[architecture]
    tokenizers = {
        part.tokenizer: build_tokenizer(sorted(VOCABULARY), out / part.tokenizer, TOKENS) for part in family.text_encoders
    }
    tokenizer = tokenizers["tokenizer"]
    parts = build_parts(architecture, (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id))
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = family.pipeline_class(**parts, **tokenizers, scheduler=scheduler, **family.pipeline_arguments)
    pipeline.save_pretrained(out)
    return sum(parameter.numel() for part in parts.values() for parameter in part.parameters())


def build_parts(architecture: str, tokens: tuple[int, int, int]) -> dict[str, Any]:
    """UNet, VAE and text encoders; `tokens` are the numbers of the tokens that begin, end and pad a caption."""
    begin, end, pad = tokens
    encoders = {}
    for part in FAMILY_OF[architecture].text_encoders:
        config = CLIPTextConfig(
            vocab_size=CLIP_VOCABULARY,
            max_position_embeddings=TOKENS,
            bos_token_id=begin,
            eos_token_id=end,
            pad_token_id=pad,
            **TEXT[architecture][part.part],
        )
        encoders[part.part] = part.model_class(config)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=8 * SAMPLE_SIZE[architecture],
        scaling_factor=LATENT_SCALE[architecture],
    )
    return {"unet": UNet2DConditionModel(sample_size=SAMPLE_SIZE[architecture], **UNET[architecture]), "vae": vae, **encoders}
