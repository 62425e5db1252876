"""A diffusers folder of a few thousand random numbers: all that a training does, in a hundredth of the time."""

from __future__ import annotations

from pathlib import Path

import torch
from atelier_trainer.synthetic.scenes.captions import VOCABULARY
from atelier_trainer.synthetic.tiny_base.architecture import build_scheduler, build_tokenizer
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

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
    vae = AutoencoderKL(
        latent_channels=4,
        sample_size=SIZE_PX,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        norm_num_groups=8,
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out)
    return out
