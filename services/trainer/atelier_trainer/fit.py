"""The optimizer steps of one training: from the first, or from a checkpoint as if it had never stopped."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler

from atelier_trainer import checkpoint
from atelier_trainer.checkpoint import Checkpoint
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.data.encode import CaptionEmbeddings, Latents
from atelier_trainer.errors import NotFinite, Stopped
from atelier_trainer.export import adapter
from atelier_trainer.graceful_stop import Stop
from atelier_trainer.objective import training_loss
from atelier_trainer.tracking.runs import Sink

EMA_ALPHA = 0.01  # of ema_loss, unbiased


@dataclass
class TrainState:
    """How far the training is, and the best weights so far.

    Attributes:
        step: optimizer steps done.
        total: exponential sum of the losses.
        share: what `total` would be if every loss were 1; their quotient is ema_loss.
        best_loss: lowest validation loss so far.
        best_step: where it was measured; 0 before the first validation.
        best: the LoRA weights there.
        last_loss: the newest validation loss.
    """

    step: int = 0
    total: float = 0.0
    share: float = 0.0
    best_loss: float = math.inf
    best_step: int = 0
    best: dict[str, torch.Tensor] | None = None
    last_loss: float = math.inf

    @property
    def ema_loss(self) -> float:
        """Exponential mean of the loss, unbiased."""
        return self.total / self.share


class TrainModule(torch.nn.Module):
    """What accelerate wraps in mixed precision and in processes; the UNet itself stays free to validate and draw."""

    def __init__(self, unet: Any, compiled: bool) -> None:
        super().__init__()
        self.unet = torch.compile(unet) if compiled else unet

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """What the UNet predicts, [b, c, h, w]."""
        predicted: torch.Tensor = self.unet(noisy, times, states).sample
        return predicted


def fit(
    options: TrainOptions,
    accelerator: Accelerator,
    noise_schedule: Any,
    unet: Any,
    parameters: list[torch.nn.Parameter],
    latents: Latents,
    words: CaptionEmbeddings,
    *,
    validate: Callable[[], float],
    draw_images: Callable[[int], None],
    sinks: Sequence[Sink],
    out: Path,
    resumed: Checkpoint | None,
    stop: Stop,
    progress: Callable[[int, int, str], None],
) -> TrainState:
    """Runs the steps that are left.

    Raises:
        NotFinite: the loss became NaN or infinite, in any process.
        Stopped: SIGTERM came to any process; a checkpoint lies in `out`.
    """
    processes, rank = accelerator.num_processes, accelerator.process_index
    steps, validation_steps = options.steps(len(latents), processes)
    optimizer = build_optimizer(options, parameters, processes)
    schedule = get_scheduler(
        options.lr_scheduler, optimizer, num_warmup_steps=options.lr_warmup_steps, num_training_steps=steps
    )  # not prepared: accelerate would step it once for every process
    stepped, optimizer = accelerator.prepare(TrainModule(unet, options.torch_compile), optimizer)
    draw = torch.Generator().manual_seed(options.seed + rank)
    course = TrainState()
    if resumed is not None:
        _restore(resumed, course, unet, optimizer, schedule, accelerator.scaler, draw)
    per_pass = options.train_batch_size * processes
    order = row_order(len(latents), per_pass * options.gradient_accumulation_steps * steps, options.seed)
    unet.train()
    while course.step < steps:
        total = torch.zeros((), device=accelerator.device)
        for part in range(options.gradient_accumulation_steps):
            first = (course.step * options.gradient_accumulation_steps + part) * per_pass + rank * options.train_batch_size
            rows = order[first : first + options.train_batch_size]
            with accelerator.accumulate(stepped):
                loss = training_loss(options, noise_schedule, stepped, latents, words, rows, draw, accelerator.device)
                accelerator.backward(loss)
                total += loss.detach() / options.gradient_accumulation_steps
                if accelerator.sync_gradients:
                    mean, stopping = _agreed(accelerator, total, stop)
                    if not math.isfinite(mean):
                        raise NotFinite(
                            f"the loss became {mean} at step {course.step + 1}: lower --learning_rate "
                            f"({options.learning_rate}) or use --mixed_precision no (now {accelerator.mixed_precision})"
                        )
                    accelerator.clip_grad_norm_(parameters, options.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
        rate = schedule.get_last_lr()[0]
        schedule.step()
        course.step += 1
        course.total = (1 - EMA_ALPHA) * course.total + EMA_ALPHA * mean
        course.share = (1 - EMA_ALPHA) * course.share + EMA_ALPHA
        values = {"loss": mean, "ema_loss": course.ema_loss, "learning_rate": rate}
        for sink in sinks:
            sink.metrics(course.step, values)
        progress(course.step, steps, f"loss {course.ema_loss:.4f}")
        if course.step % validation_steps == 0 or course.step == steps:
            _validate(course, unet, validate, sinks)
            draw_images(course.step)
        saving = course.step % options.checkpointing_steps == 0 and course.step < steps
        if saving or stopping:
            _save(options, accelerator, course, unet, optimizer, schedule, draw, out)
        if stopping and course.step < steps:
            raise Stopped(
                f"stopped at step {course.step} of {steps} by SIGTERM; --resume_from_checkpoint latest goes on from there"
            )
    unet.eval()
    return course


def build_optimizer(options: TrainOptions, parameters: list[torch.nn.Parameter], processes: int) -> Any:
    """AdamW of torch, or of bitsandbytes in 8 bits."""
    rate = options.learning_rate
    if options.scale_lr:
        rate *= processes * options.train_batch_size * options.gradient_accumulation_steps
    kind = importlib.import_module("bitsandbytes").optim.AdamW8bit if options.use_8bit_adam else torch.optim.AdamW
    betas = (options.adam_beta1, options.adam_beta2)
    return kind(parameters, lr=rate, betas=betas, weight_decay=options.adam_weight_decay, eps=options.adam_epsilon)


def row_order(rows: int, needed: int, seed: int) -> torch.Tensor:
    """Row numbers for the whole run, int64 [needed]: every epoch is a new permutation."""
    rng = np.random.default_rng([seed, 7])
    epochs = [rng.permutation(rows) for _ in range(math.ceil(needed / rows))]
    return torch.from_numpy(np.concatenate(epochs)[:needed])


def _agreed(accelerator: Accelerator, loss: torch.Tensor, stop: Stop) -> tuple[float, bool]:
    """The mean loss of all processes, and whether any of them is to stop: one exchange, the same answer everywhere."""
    mine = torch.stack([loss.double(), torch.tensor(float(stop.asked), device=loss.device, dtype=torch.float64)])
    if accelerator.num_processes > 1:
        mine = accelerator.reduce(mine, "sum")
    mean, asked = mine.tolist()
    return mean / accelerator.num_processes, asked > 0


def _validate(course: TrainState, unet: Any, validate: Callable[[], float], sinks: Sequence[Sink]) -> None:
    course.last_loss = validate()
    for sink in sinks:
        sink.metrics(course.step, {"validation_loss": course.last_loss})
    if course.last_loss < course.best_loss or course.best is None:
        course.best_loss, course.best_step, course.best = course.last_loss, course.step, adapter.weights_of(unet)


def _save(
    options: TrainOptions, accelerator: Accelerator, course: TrainState, unet: Any, optimizer: Any, schedule: Any,
    draw: torch.Generator, out: Path,
) -> None:  # fmt: skip
    state = {
        "course": vars(course),
        "weights": adapter.weights_of(unet),
        "optimizer": optimizer.state_dict(),
        "schedule": {name: value for name, value in schedule.state_dict().items() if name != "lr_lambdas"},
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
    }
    own = {"draw": draw.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    checkpoint.save(out, course.step, options.resolved(), state, own, accelerator, options.checkpoints_total_limit)


def _restore(
    resumed: Checkpoint, course: TrainState, unet: Any, optimizer: Any, schedule: Any, scaler: Any, draw: torch.Generator
) -> None:
    state, own = resumed.state, resumed.own
    for name, value in state["course"].items():
        setattr(course, name, value)
    adapter.put_weights(unet, state["weights"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(schedule.state_dict() | state["schedule"])
    if scaler is not None and state["scaler"] is not None:
        scaler.load_state_dict(state["scaler"])
    draw.set_state(own["draw"])
    torch.set_rng_state(own["torch"])
    if "cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda"])
