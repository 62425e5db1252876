"""Layers and tokenizer of the tiny base model: diffusers' and transformers' own classes, as small as still gives images.

Sizes were measured on two cores: attention at 16x16 in the down blocks halves the speed and gains little; in the up blocks it
lets a LoRA reach the last layers. So the blocks are asymmetric on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SIZE_PX = 128
LATENT_CHANNELS = 8
VAE_FACTOR = 8
TEXT_TOKENS = 48
TEXT_WIDTH = 128
START, END = "<|startoftext|>", "<|endoftext|>"


def build_vae() -> AutoencoderKL:
    """AutoencoderKL, 1.65 M parameters: [b, 3, 128, 128] in [-1, 1] to latents [b, 8, 16, 16]."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE_PX,
        mid_block_add_attention=False,
    )


def build_unet() -> UNet2DConditionModel:
    """UNet2DConditionModel, 5.4 M parameters, cross-attention on the text states at 8x8 and 4x4, and at 16x16 going up."""
    return UNet2DConditionModel(
        sample_size=SIZE_PX // VAE_FACTOR,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        use_linear_projection=True,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIPTextModel with two layers: token ids [b, 48] to text states [b, 48, 128]."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_TOKENS,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with v-prediction (Salimans and Ho 2022, arXiv:2202.00512)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build_tokenizer(captions: Iterable[str], folder: Path, length: int = TEXT_TOKENS) -> CLIPTokenizer:
    """Trains a byte-pair vocabulary in CLIP's format on the captions and writes it to `folder`, or reads it from there.

    Every word of the captions becomes one token; any other text still encodes, byte by byte. Token ids differ between
    runs (single letters come in no order), so a resumed training must use its own tokenizer.
    """
    if (folder / "tokenizer.json").exists():
        return CLIPTokenizer.from_pretrained(folder)
    bpe = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=4096, min_frequency=1, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
        ),
    )
    state = json.loads(bpe.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].__getitem__)
    tokens += [letter + "</w>" for letter in alphabet if letter + "</w>" not in state["vocab"]] + [START, END]
    merges = [tuple(pair) for pair in state["merges"]]
    tokenizer = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        model_max_length=length,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
