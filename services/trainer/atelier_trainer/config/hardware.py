"""What this machine can do of what was asked: one warning for each thing that is done another way, before any work."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from atelier_trainer.config.options import TrainOptions


@dataclass(frozen=True)
class Machine:
    """How the training runs here.

    Attributes:
        precision: no, fp16 or bf16: what accelerate is given.
        xformers: whether the UNet uses xformers' attention; torch's scaled_dot_product_attention otherwise.
        warnings: one sentence for each flag that is followed in another way than asked.
    """

    precision: str
    xformers: bool
    warnings: tuple[str, ...]


def resolve(options: TrainOptions, environment: Mapping[str, str] | None = None) -> Machine:
    """Compares what was asked with what there is.

    Args:
        options: of the run.
        environment: the process's own; accelerate launch leaves its --mixed_precision there.
    """
    environment = os.environ if environment is None else environment
    warnings = []
    asked = options.mixed_precision or environment.get("ACCELERATE_MIXED_PRECISION") or "no"
    precision = _precision(asked)
    if precision != asked:
        warnings.append(f"mixed_precision {asked} needs a GPU that has it; this machine trains in {_spelt(precision)}")
    xformers = options.enable_xformers_memory_efficient_attention
    if xformers and not (torch.cuda.is_available() and importlib.util.find_spec("xformers")):
        missing = "the package xformers is not installed" if torch.cuda.is_available() else "there is no GPU"
        warnings.append(f"xformers attention is left out because {missing}; torch's scaled_dot_product_attention is used")
        xformers = False
    if options.allow_tf32 and not torch.cuda.is_available():
        warnings.append("allow_tf32 has no effect because there is no GPU")
    return Machine(precision, xformers, tuple(warnings))


def _precision(asked: str) -> str:
    if asked == "no" or (torch.cuda.is_available() and (asked == "fp16" or torch.cuda.is_bf16_supported())):
        return asked
    if torch.cuda.is_available():
        return "fp16"
    if asked == "bf16":
        return asked  # any CPU computes it; one without the instructions is slow and was asked for
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"


def _spelt(precision: str) -> str:
    return {"no": "float32", "bf16": "bf16", "fp16": "fp16"}[precision]
