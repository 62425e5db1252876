"""The state of a training between two optimizer steps: what a checkpoint saves and a resumed run restores."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from atelier_trainer.checkpoint import Checkpoint
from atelier_trainer.export import adapter

EMA_ALPHA = 0.01  # of ema_loss


@dataclass
class TrainProgress:
    """Steps, losses, and the best weights so far.

    Attributes:
        step: optimizer steps done.
        ema_sum: exponential sum of the training losses.
        ema_weight: what `ema_sum` would be if every loss were 1; their quotient is the unbiased mean.
        best_loss: lowest validation loss so far.
        best_step: step at which it was measured; 0 before the first validation.
        best_weights: LoRA weights at that step.
        last_loss: newest validation loss.
    """

    step: int = 0
    ema_sum: float = 0.0
    ema_weight: float = 0.0
    best_loss: float = math.inf
    best_step: int = 0
    best_weights: dict[str, torch.Tensor] | None = None
    last_loss: float = math.inf

    @property
    def ema_loss(self) -> float:
        """Exponential moving average of the training loss, unbiased."""
        return self.ema_sum / self.ema_weight

    def add_step(self, loss: float) -> None:
        self.step += 1
        self.ema_sum = (1 - EMA_ALPHA) * self.ema_sum + EMA_ALPHA * loss
        self.ema_weight = (1 - EMA_ALPHA) * self.ema_weight + EMA_ALPHA

    def add_validation(self, loss: float, unet: Any) -> None:
        """Keeps a copy of the LoRA weights where the loss is the lowest so far."""
        self.last_loss = loss
        if loss < self.best_loss or self.best_weights is None:
            self.best_loss, self.best_step, self.best_weights = loss, self.step, adapter.lora_weights(unet)


@dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
        unet: with LoRA.
        optimizer: as accelerate prepared it.
        lr_schedule: not prepared, because accelerate would step it once per process.
        scaler: of the gradients in fp16; None otherwise.
        generator: of noise, times and variants, on the CPU.
        progress: steps and losses.
    """

    unet: Any
    optimizer: Any
    lr_schedule: Any
    scaler: Any
    generator: torch.Generator
    progress: TrainProgress = field(default_factory=TrainProgress)

    def checkpoint(self) -> Checkpoint:
        shared = {
            "progress": vars(self.progress),
            "weights": adapter.lora_weights(self.unet),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {name: value for name, value in self.lr_schedule.state_dict().items() if name != "lr_lambdas"},
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
        }
        local = {"generator": self.generator.get_state(), "torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            local["cuda"] = torch.cuda.get_rng_state()
        return Checkpoint(self.progress.step, shared, local)

    def restore(self, checkpoint: Checkpoint) -> None:
        shared, local = checkpoint.shared, checkpoint.local
        self.progress = TrainProgress(**shared["progress"])
        adapter.set_lora_weights(self.unet, shared["weights"])
        self.optimizer.load_state_dict(shared["optimizer"])
        self.lr_schedule.load_state_dict(self.lr_schedule.state_dict() | shared["schedule"])
        if self.scaler is not None and shared["scaler"] is not None:
            self.scaler.load_state_dict(shared["scaler"])
        self.generator.set_state(local["generator"])
        torch.set_rng_state(local["torch"])
        if "cuda" in local and torch.cuda.is_available():
            torch.cuda.set_rng_state(local["cuda"])
