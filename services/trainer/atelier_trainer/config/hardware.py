"""What this machine supports of the options; each fallback comes with one warning, before any work."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from atelier_trainer.config.option_groups import HardwareOptions

PRECISION_NAMES = {"no": "float32", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class Hardware:
    """How the training runs on this machine.

    Attributes:
        precision: no, fp16 or bf16, as accelerate calls them.
        xformers: use xformers' attention; torch's scaled_dot_product_attention otherwise.
        warnings: one sentence for each option that this machine does not support.
    """

    precision: str
    xformers: bool
    warnings: tuple[str, ...]


def resolve(options: HardwareOptions, environment: Mapping[str, str] | None = None) -> Hardware:
    """Compares the options with the machine; accelerate launch sets its precision in the environment."""
    environment = os.environ if environment is None else environment
    warnings = []
    requested = options.mixed_precision or environment.get("ACCELERATE_MIXED_PRECISION") or "no"
    precision = _supported_precision(requested)
    if precision != requested:
        warnings.append(
            f"mixed_precision {requested} needs a GPU that supports it; training in {PRECISION_NAMES[precision]} instead"
        )
    xformers = options.enable_xformers_memory_efficient_attention
    if xformers and not (torch.cuda.is_available() and importlib.util.find_spec("xformers")):
        reason = "the package xformers is not installed" if torch.cuda.is_available() else "there is no GPU"
        warnings.append(f"xformers attention is off because {reason}; using torch's scaled_dot_product_attention")
        xformers = False
    if options.allow_tf32 and not torch.cuda.is_available():
        warnings.append("allow_tf32 has no effect because there is no GPU")
    return Hardware(precision, xformers, tuple(warnings))


def _supported_precision(requested: str) -> str:
    if requested == "no" or (torch.cuda.is_available() and (requested == "fp16" or torch.cuda.is_bf16_supported())):
        return requested
    if torch.cuda.is_available():
        return "fp16"
    if requested == "bf16":
        return requested  # every CPU computes it, if slowly
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"
