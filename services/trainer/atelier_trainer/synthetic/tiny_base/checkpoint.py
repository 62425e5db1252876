"""State of an interrupted training, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def running_average(module: torch.nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """An exponential average of the weights whose decay warms up, so that it forgets the initial weights.

    Step n keeps min(decay, (1 + n) / (10 + n)) of the average.
    """

    def average(averaged: Any, current: Any, count: Any) -> None:
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(list(averaged), list(current), 1 - kept)

    return torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=average)


def save_state(file: Path, step: int, **parts: Any) -> None:
    """Writes the step and each part's `state_dict` atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    torch.save({"step": step} | {name: part.state_dict() for name, part in parts.items()}, partial)
    partial.replace(file)


def load_state(file: Path, **parts: Any) -> int:
    """Restores the parts in place and returns the step to resume from: 0 where there is no file."""
    if not file.exists():
        return 0
    state = torch.load(file, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])
