"""Diffusers folders of a few thousand random numbers: all that a training does, in a hundredth of the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from atelier_trainer.synthetic.scenes.captions import VOCABULARY
from atelier_trainer.synthetic.tiny_base.architecture import build_scheduler, build_tokenizer
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from transformers.models.clip.tokenization_clip import CLIPTokenizer

SIZE_PX, TOKENS = 16, 16


def write_small_base(out: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(sorted(VOCABULARY), out / "tokenizer", TOKENS)
    unet = UNet2DConditionModel(
        sample_size=SIZE_PX // 2,
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        norm_num_groups=8,
    )
    pipeline = StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out)
    return out


def write_small_xl_base(out: Path) -> Path:
    """SDXL's parts: two text encoders, of which the second pads with another token, and sizes as conditioning."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(sorted(VOCABULARY), out / "tokenizer", TOKENS)
    tokenizer_2 = build_tokenizer(sorted(VOCABULARY), out / "tokenizer_2", TOKENS)
    tokenizer_2.pad_token = "a"
    text_2 = _text_config(tokenizer_2, hidden_size=24, projection_dim=20)
    unet = UNet2DConditionModel(
        sample_size=SIZE_PX // 2,
        layers_per_block=2,
        cross_attention_dim=16 + 24,
        attention_head_dim=(2, 4),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        block_out_channels=(16, 32),
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=20 + 6 * 8,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(text_2),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=build_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.save_pretrained(out)
    return out


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        latent_channels=4,
        sample_size=SIZE_PX,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        norm_num_groups=8,
    )


def _text_config(tokenizer: CLIPTokenizer, **changes: Any) -> CLIPTextConfig:
    values = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **values | changes,
    )
