"""Full-size Stable Diffusion folders with random weights: to measure speed and memory without the real weights.

The architectures are the published configurations of `stable-diffusion-v1-5` and `stable-diffusion-2-1-base`. The
tokenizer knows the words of our own captions; the text encoder has the full vocabulary's size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from atelier_trainer.errors import OptionError
from atelier_trainer.synthetic.scenes.captions import VOCABULARY
from atelier_trainer.synthetic.tiny_base.architecture import build_tokenizer

TOKENS, CLIP_VOCABULARY = 77, 49_408
UNET: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
}
TEXT: dict[str, dict[str, Any]] = {
    "sd15": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
    },
    "sd21": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
}
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
    tokenizer = build_tokenizer(sorted(VOCABULARY), out / "tokenizer", TOKENS)
    parts = build_parts(architecture, (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id))
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out)
    return sum(parameter.numel() for part in parts.values() for parameter in part.parameters())


def build_parts(architecture: str, tokens: tuple[int, int, int]) -> dict[str, Any]:
    """UNet, VAE and text encoder; `tokens` are the numbers of the tokens that begin, end and pad a caption."""
    begin, end, pad = tokens
    text = CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY,
        max_position_embeddings=TOKENS,
        bos_token_id=begin,
        eos_token_id=end,
        pad_token_id=pad,
        **TEXT[architecture],
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    unet = UNet2DConditionModel(sample_size=64, **UNET[architecture])
    return {"unet": unet, "vae": vae, "text_encoder": CLIPTextModel(text)}
