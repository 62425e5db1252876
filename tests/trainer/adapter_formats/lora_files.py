"""LoRA files as other tools write them, for the small base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

ALL_LAYERS = (
    r".*\.(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out|conv1|conv2|conv_shortcut|time_emb_proj)"
    r"|.*(downsamplers|upsamplers)\.0\.conv"
)
TEXT_LAYERS = r".*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"


def write_diffusers(
    pipeline: Any,
    folder: Path,
    *,
    rank: int = 3,
    alpha: float = 6.0,
    unet: bool = True,
    text: bool = True,
    seed: int = 0,
    **options: Any,
) -> Path:
    """Random LoRA of peft in the pipeline, saved by diffusers; the pipeline keeps it."""
    arguments: dict[str, Any] = {}
    targets = {"unet": ALL_LAYERS} if unet else {}
    parts = [part for part in ("text_encoder", "text_encoder_2") if part in pipeline.components] if text else []
    for part, pattern in (targets | dict.fromkeys(parts, TEXT_LAYERS)).items():
        model = pipeline.components[part]
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=pattern, **options)
        model.add_adapter(config)
        randomize(model, seed)
        arguments[f"{part}_lora_layers"] = get_peft_model_state_dict(model)
        arguments[f"{part}_lora_adapter_metadata"] = {
            name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()
        }
    type(pipeline).save_lora_weights(folder, **arguments)
    return folder / "pytorch_lora_weights.safetensors"


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def to_kohya(file: Path, target: Path, *, alpha: float, metadata: Mapping[str, str] | None = None) -> Path:
    """The file in kohya's names, by diffusers' own conversion, with an alpha for each layer."""
    converted = convert_state_dict_to_kohya(load_file(file))
    kohya = {}
    for key, tensor in converted.items():
        name = key.replace("lora_te1_encoder", "lora_te_text_model_encoder")  # as kohya's own scripts name them
        kohya[name] = torch.tensor(alpha) if name.endswith(".alpha") else tensor.clone().contiguous()
    save_file(kohya, target, dict(metadata or {}))
    return target


def draw(pipeline: Any, **options: Any) -> torch.Tensor:
    """Pixels of one prompt and seed, float [h, w, 3]."""
    pipeline.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "pt"}
    image = pipeline("a cat", generator=torch.Generator().manual_seed(1), **settings, **options).images[0]
    return image.permute(1, 2, 0)


def load(base: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(base, safety_checker=None, requires_safety_checker=False)


def rewrite(
    file: Path,
    target: Path,
    *,
    rename: Sequence[tuple[str, str]] = (),
    dtype: torch.dtype | None = None,
    more: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """A copy with other keys, another dtype, or more tensors."""
    tensors = {}
    for key, tensor in load_file(file).items():
        for old, new in rename:
            key = key.replace(old, new)
        tensors[key] = tensor.to(dtype or tensor.dtype)
    save_file(tensors | dict(more or {}), target)
    return target
