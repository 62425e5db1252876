"""The optimizer steps of one training, from the first one or from a checkpoint."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.optimization import get_scheduler

from atelier_trainer.checkpoint import Checkpoint, CheckpointFolder
from atelier_trainer.config.option_groups import OptimizationOptions
from atelier_trainer.context import PreparedData, TrainContext
from atelier_trainer.errors import NotFinite, Stopped
from atelier_trainer.families.family import Conditioning, unet_arguments
from atelier_trainer.objective import TrainingLoss, validation_loss
from atelier_trainer.tracking.metric_sink import MetricSink
from atelier_trainer.train_state import TrainProgress, TrainState


class TrainModule(torch.nn.Module):
    """What accelerate wraps for mixed precision and several processes; the UNet itself stays unwrapped, to validate with."""

    def __init__(self, unet: Any, compiled: bool) -> None:
        super().__init__()
        self.unet = torch.compile(unet) if compiled else unet

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The UNet's prediction, [b, c, h, w]."""
        predicted: torch.Tensor = self.unet(noisy, times, **unet_arguments(conditioning)).sample
        return predicted


def fit(
    context: TrainContext, unet: Any, data: PreparedData, sinks: Sequence[MetricSink], resumed: Checkpoint | None
) -> TrainProgress:
    """Runs the remaining steps.

    Args:
        context: of the training.
        unet: with LoRA; its trainable parameters are optimized.
        data: encoded images and captions.
        sinks: get loss, ema_loss, learning_rate, validation_loss and images; empty in all processes but the main one.
        resumed: None for a new training.

    Raises:
        NotFinite: the loss became NaN or infinite, in any process.
        Stopped: any process received SIGTERM; a checkpoint was saved.
    """
    options, accelerator = context.options, context.accelerator
    optimization, processes, rank = options.optimization, accelerator.num_processes, accelerator.process_index
    steps, validation_steps = options.step_counts(len(data.train), processes)
    parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(optimization, parameters, processes)
    lr_schedule = get_scheduler(
        optimization.lr_scheduler, optimizer, num_warmup_steps=optimization.lr_warmup_steps, num_training_steps=steps
    )
    module, optimizer = accelerator.prepare(TrainModule(unet, options.hardware.torch_compile), optimizer)
    generator = torch.Generator().manual_seed(optimization.seed + rank)
    state = TrainState(unet, optimizer, lr_schedule, accelerator.scaler, generator)
    if resumed is not None:
        state.restore(resumed)
    progress = state.progress
    checkpoints = CheckpointFolder(context.output_dir, accelerator, options.output.checkpoints_total_limit)
    training_loss = TrainingLoss(optimization, context.base.noise_schedule, data.train, accelerator.device)
    accumulation, batch = optimization.gradient_accumulation_steps, optimization.train_batch_size
    order = row_order(len(data.train), batch * processes * accumulation * steps, optimization.seed)

    unet.train()
    while progress.step < steps:
        step_loss = torch.zeros((), device=accelerator.device)
        for micro_step in range(accumulation):
            first = ((progress.step * accumulation + micro_step) * processes + rank) * batch
            with accelerator.accumulate(module):
                loss = training_loss(module, order[first : first + batch], generator)
                accelerator.backward(loss)
                step_loss += loss.detach() / accumulation
                if accelerator.sync_gradients:
                    mean_loss, stopping = _agree(context, step_loss)
                    _check_finite(context, mean_loss, progress.step + 1)
                    accelerator.clip_grad_norm_(parameters, optimization.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
        learning_rate = lr_schedule.get_last_lr()[0]
        lr_schedule.step()
        progress.add_step(mean_loss)
        _log(sinks, progress.step, loss=mean_loss, ema_loss=progress.ema_loss, learning_rate=learning_rate)
        context.progress.show_training(progress.step, steps, progress.ema_loss)
        if progress.step % validation_steps == 0 or progress.step == steps:
            progress.add_validation(validation_loss(unet, context.base.noise_schedule, data.validation, accelerator), unet)
            _log(sinks, progress.step, validation_loss=progress.last_loss)
            if data.sampler is not None and context.is_main:
                data.sampler.log_images(unet, progress.step, sinks)
        checkpoint_due = progress.step % options.output.checkpointing_steps == 0 and progress.step < steps
        if checkpoint_due or stopping:
            checkpoints.save(state.checkpoint(), options.run_params())
        if stopping and progress.step < steps:
            raise Stopped(f"stopped by SIGTERM at step {progress.step} of {steps}; --resume_from_checkpoint latest resumes it")
    unet.eval()
    return progress


def build_optimizer(options: OptimizationOptions, parameters: list[torch.nn.Parameter], processes: int) -> Any:
    """AdamW of torch, or of bitsandbytes in 8 bits."""
    learning_rate = options.learning_rate
    if options.scale_lr:
        learning_rate *= processes * options.train_batch_size * options.gradient_accumulation_steps
    adamw = importlib.import_module("bitsandbytes").optim.AdamW8bit if options.use_8bit_adam else torch.optim.AdamW
    betas = (options.adam_beta1, options.adam_beta2)
    return adamw(parameters, lr=learning_rate, betas=betas, weight_decay=options.adam_weight_decay, eps=options.adam_epsilon)


def row_order(rows: int, needed: int, seed: int) -> torch.Tensor:
    """Row numbers for the whole run, int64 [needed]: every epoch is a new permutation."""
    rng = np.random.default_rng([seed, 7])
    epochs = [rng.permutation(rows) for _ in range(math.ceil(needed / rows))]
    return torch.from_numpy(np.concatenate(epochs)[:needed])


def _agree(context: TrainContext, loss: torch.Tensor) -> tuple[float, bool]:
    """The mean loss of all processes, and whether any of them should stop, in one exchange."""
    accelerator = context.accelerator
    stop_requested = torch.tensor(float(context.stop.requested), device=loss.device, dtype=torch.float64)
    values = torch.stack([loss.double(), stop_requested])
    if accelerator.num_processes > 1:
        values = accelerator.reduce(values, "sum")
    total_loss, stops = values.tolist()
    return total_loss / accelerator.num_processes, stops > 0


def _check_finite(context: TrainContext, loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise NotFinite(
            f"the loss became {loss} at step {step}: lower --learning_rate ({context.options.optimization.learning_rate}) "
            f"or use --mixed_precision no (now {context.accelerator.mixed_precision})"
        )


def _log(sinks: Sequence[MetricSink], step: int, **values: float) -> None:
    for sink in sinks:
        sink.log_metrics(step, values)
