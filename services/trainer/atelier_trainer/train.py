"""One LoRA training, top to bottom: load, encode once, inject, step, validate, export, log, register."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from atelier_contracts.manifests import BundleManifest, Evidence
from diffusers.optimization import get_scheduler
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.nn import functional as F

from atelier_trainer import adapter, objective
from atelier_trainer.base import Base, load_base
from atelier_trainer.bundle import export_bundle, lora_layers
from atelier_trainer.encode import Encoded, encode
from atelier_trainer.errors import DataError, OptionError, TrainerError
from atelier_trainer.options import TrainOptions
from atelier_trainer.pictures import load_pictures, split
from atelier_trainer.tracking import Tracking, fetch_or_export

log = logging.getLogger(__name__)

EMA_ALPHA = 0.01  # of ema_loss, unbiased
LOG_EVERY_STEPS = 10
CAPTION_DROPOUT = 0.1  # so that guidance keeps working with the adapter


@dataclass(frozen=True)
class Trained:
    """What a run left: `version` is None where nothing was registered."""

    run_id: str
    version: int | None
    validation_loss: float
    base_validation_loss: float
    ema_loss: float
    adapter_dir: Path


def train(options: TrainOptions, console: Console) -> Trained:
    """Fits a LoRA on the options' data set and leaves it in MLflow.

    Args:
        options: complete settings.
        console: progress goes here; a line per stage where it is not a terminal.

    Raises:
        TrainerError: see atelier_trainer.errors; MLflow's run is marked FAILED, or KILLED on Ctrl-C.
    """
    options.check()
    accelerator = Accelerator(
        gradient_accumulation_steps=options.gradient_accumulation_steps, mixed_precision=options.mixed_precision
    )
    if accelerator.num_processes > 1:
        raise OptionError(
            f"training runs in one process; received {accelerator.num_processes}: start it with --num_processes 1"
        )
    set_seed(options.seed)
    base = load_base(options.pretrained_model_name_or_path, options.revision, options.base_name)
    width, height = options.width or base.native_size_px, options.height or base.native_size_px
    _check_size(base, width, height)
    fitted, held_out = split(load_pictures(options), options.validation_samples)
    tracking = Tracking(str(options.tracking_uri))
    params = {name: value for name, value in options.resolved().items() if value is not None}
    with tracking.run(options.experiments_name, params, {"atelier.dataset_digest": fitted.digest()}) as run_id:
        console.print(f"run {run_id} of experiment {options.experiments_name!r} at {tracking.uri}", soft_wrap=True)
        base.pipeline.to(accelerator.device)
        cache_dir = Path(options.cache_dir).expanduser()
        with _progress(console) as bar:
            task = bar.add_task("encode", total=len(fitted) + len(held_out))
            flip = options.random_flip
            train_set = encode(base, fitted, width, height, flip, cache_dir, lambda done, _: bar.update(task, completed=done))
            validation_set = encode(
                base, held_out, width, height, False, cache_dir, lambda done, _: bar.update(task, completed=len(fitted) + done)
            )
        with tempfile.TemporaryDirectory(prefix="atelier-") as scratch:
            work = Path(scratch)
            bundle_dir, bundle = fetch_or_export(
                tracking,
                base.source,
                work,
                lambda out: _export(base, out, console),
                lambda folder, manifest: tracking.register_bundle(run_id, folder, manifest),
            )
            unet = base.pipeline.unet
            targets = tuple(lora_layers(unet))
            base_loss = objective.validation_loss(unet, base.noise, validation_set)
            alpha = options.alpha if options.alpha is not None else float(options.rank)
            parameters = adapter.inject(unet, options.rank, alpha)
            ema_loss = _fit(options, accelerator, base, train_set, validation_set, parameters, tracking, run_id, console)

            unet.to("cpu")
            loss = objective.validation_loss(unet, base.noise, validation_set)
            last = [("validation_loss", loss, options.max_train_steps), ("base_validation_loss", base_loss, 0)]
            tracking.metrics(run_id, [(*row, _now_ms()) for row in last])
            out = Path(options.output_dir).expanduser()
            out.mkdir(parents=True, exist_ok=True)
            weights = adapter.save_weights(unet, out)
            manifest = adapter.describe(
                weights, bundle, rank=options.rank, alpha=alpha, targets=targets, run_id=run_id, dataset_digest=fitted.digest()
            )
            finite, error = adapter.measure_parity(unet, bundle_dir, bundle)
            evidence = Evidence(
                output_finite=finite,
                onnx_max_error=error,
                validation_loss=loss,
                base_validation_loss=base_loss,
                validation_digest=objective.validation_digest(held_out.digest(), base.source, width, height),
                validation_images=len(held_out),
            )
            adapter.write_evidence(out, evidence)
            named = base.name if base.revision is not None else f"bundle:{bundle.digest()}"
            version = tracking.log_adapter(run_id, out, named, manifest, options.register)
    return Trained(run_id, version, loss, base_loss, ema_loss, out)


def _fit(
    options: TrainOptions,
    accelerator: Accelerator,
    base: Base,
    data: Encoded,
    held_out: Encoded,
    parameters: list[torch.nn.Parameter],
    tracking: Tracking,
    run_id: str,
    console: Console,
) -> float:
    """Runs all optimizer steps; returns the unbiased exponential mean of the loss."""
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate)
    schedule = get_scheduler(
        options.lr_scheduler,
        optimizer,
        num_warmup_steps=options.lr_warmup_steps,
        num_training_steps=options.max_train_steps,
    )
    unet = base.pipeline.unet
    stepped, optimizer, schedule = accelerator.prepare(_Stepped(unet), optimizer, schedule)
    micro_batches = options.max_train_steps * options.gradient_accumulation_steps
    order = _order(len(data), options.train_batch_size * micro_batches, options.seed)
    draw = torch.Generator().manual_seed(options.seed)
    pending: list[tuple[str, float, int, int]] = []
    total, share, step, step_losses = 0.0, 0.0, 0, []
    unet.train()
    with _progress(console) as bar:
        task = bar.add_task("train", total=options.max_train_steps)
        for micro in range(micro_batches):
            rows = order[micro * options.train_batch_size : (micro + 1) * options.train_batch_size]
            with accelerator.accumulate(stepped):
                loss = _loss(options, base, stepped, data, rows, draw, accelerator.device)
                if not math.isfinite(value := loss.item()):
                    raise TrainerError(
                        f"the loss became {value} at step {step + 1}: lower --learning_rate ({options.learning_rate}) "
                        f"or use --mixed_precision no (now {options.mixed_precision})"
                    )
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(parameters, options.max_grad_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            step_losses.append(value)
            if not accelerator.sync_gradients:
                continue
            step += 1
            mean = float(np.mean(step_losses))
            step_losses.clear()
            total, share = (1 - EMA_ALPHA) * total + EMA_ALPHA * mean, (1 - EMA_ALPHA) * share + EMA_ALPHA
            now = _now_ms()
            pending += [("loss", mean, step, now), ("ema_loss", total / share, step, now)]
            pending.append(("learning_rate", schedule.get_last_lr()[0], step, now))
            bar.update(task, completed=step, description=f"train  loss {total / share:.4f}")
            if step % options.validation_steps == 0 and step < options.max_train_steps:
                pending.append(("validation_loss", objective.validation_loss(unet, base.noise, held_out), step, now))
                _draw(options, base, tracking, run_id, step)
            if step % LOG_EVERY_STEPS == 0 or step == options.max_train_steps:
                tracking.metrics(run_id, pending)
                pending.clear()
    unet.eval()
    _draw(options, base, tracking, run_id, step)
    return total / share


def _loss(
    options: TrainOptions,
    base: Base,
    stepped: torch.nn.Module,
    data: Encoded,
    rows: torch.Tensor,
    draw: torch.Generator,
    device: torch.device,
) -> torch.Tensor:
    """Mean squared error of one batch; a new posterior sample, noise, time step and flip for every row."""
    count = len(rows)
    flips = torch.randint(0, data.mean.shape[1], (count,), generator=draw)
    mean, std = data.mean[rows, flips], data.std[rows, flips]
    latents = (mean + std * torch.randn(mean.shape, generator=draw)) * data.scale
    noise = torch.randn(mean.shape, generator=draw)
    times = torch.randint(0, base.noise.config.num_train_timesteps, (count,), generator=draw)
    states = data.states[data.caption[rows]]
    dropped = torch.rand(count, generator=draw) < CAPTION_DROPOUT
    states = torch.where(dropped[:, None, None], data.empty, states)
    noisy, wanted = base.noise.add_noise(latents, noise, times), objective.target(base.noise, latents, noise, times)
    predicted = stepped(noisy.to(device), times.to(device), states.to(device))
    return F.mse_loss(predicted.float(), wanted.to(device))


class _Stepped(torch.nn.Module):
    """What accelerate wraps in mixed precision, so that the UNet itself keeps validating and drawing in float32."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        predicted: torch.Tensor = self.unet(noisy, times, states).sample
        return predicted


def _draw(options: TrainOptions, base: Base, tracking: Tracking, run_id: str, step: int) -> None:
    """Logs pictures of the validation prompt, the same seeds each time."""
    if options.validation_prompt is None:
        return
    unet = base.pipeline.unet
    training = unet.training
    unet.eval()
    for index in range(options.num_validation_images):
        generator = torch.Generator().manual_seed(options.seed + index)
        image: Image.Image = base.pipeline(options.validation_prompt, num_inference_steps=25, generator=generator).images[0]
        tracking.picture(run_id, image, f"validation_{index}", step)
    unet.train(training)


def _export(base: Base, out: Path, console: Console) -> BundleManifest:
    console.print(f"exporting the base {base.name!r} to ONNX; this happens once per base", soft_wrap=True)
    return export_bundle(base.pipeline, out, base=base.name, revision=base.revision, source=base.source)


def _order(rows: int, needed: int, seed: int) -> torch.Tensor:
    """Row numbers for the whole run, int64 [needed]: every epoch is a new permutation."""
    rng = np.random.default_rng([seed, 7])
    epochs = [rng.permutation(rows) for _ in range(math.ceil(needed / rows))]
    return torch.from_numpy(np.concatenate(epochs)[:needed])


def _check_size(base: Base, width: int, height: int) -> None:
    multiple = base.vae_factor * 2 ** (len(base.pipeline.unet.config.block_out_channels) - 1)
    for name, value in (("width", width), ("height", height)):
        if value % multiple:
            raise DataError(f"--{name} must be a multiple of {multiple} px for {base.name!r}; received {value}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)
