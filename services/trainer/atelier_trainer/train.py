"""One LoRA training, top to bottom: set up, open the run, encode, fit, validate, publish."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console

from atelier_trainer import objective
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.checkpoint import Checkpoint, CheckpointFolder
from atelier_trainer.config import hardware, validation
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.context import PreparedData, TrainContext
from atelier_trainer.data.dataset import load_images, split
from atelier_trainer.errors import CheckpointError, Stopped, TrackingError
from atelier_trainer.export import adapter, hub
from atelier_trainer.export.bundle import source_digest
from atelier_trainer.export.outcome import Losses, Outcome
from atelier_trainer.export.publish import RunTarget, publish
from atelier_trainer.fit import fit
from atelier_trainer.graceful_stop import StopSignal
from atelier_trainer.prepare import prepare
from atelier_trainer.tracking.active_run import ActiveRun, NewRun, open_run
from atelier_trainer.tracking.loggers import additional_sinks
from atelier_trainer.tracking.metric_sink import MetricSink
from atelier_trainer.tracking.mlflow_client import TrackingClient
from atelier_trainer.tracking.progress import ProgressBars
from atelier_trainer.tracking.run_folder import RECIPE_FILE, archive_run, read_run_metadata, run_lock
from atelier_trainer.train_state import TrainProgress

log = logging.getLogger(__name__)
PUBLISH_RETRY_S = 3.0


@dataclass(frozen=True)
class RunExtras:
    """What a search adds to the training of a trial.

    Attributes:
        sinks: also get curves and images.
        tags: also set on the MLflow run.
        publish: whether the adapter is logged as a model.
        publish_retry_s: pause between two attempts to publish.
    """

    sinks: Sequence[MetricSink] = ()
    tags: Mapping[str, str] | None = None
    publish: bool = True
    publish_retry_s: float = PUBLISH_RETRY_S


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        run_id: MLflow's.
        version: of the registered model; None where nothing was registered.
        losses: of the weights that were kept.
        delivered: whether MLflow has everything.
    """

    run_id: str
    version: int | None
    losses: Losses
    delivered: bool


def train(options: TrainOptions, console: Console, extras: RunExtras | None = None) -> TrainResult | None:
    """Trains a LoRA adapter and publishes it to MLflow.

    Args:
        options: all settings.
        console: gets progress; a line per stage where it is not a terminal.
        extras: of a trial.

    Returns:
        None in all processes but the main one.

    Raises:
        TrainerError: see atelier_trainer.errors; MLflow's run is marked FAILED, or KILLED on SIGTERM and Ctrl-C.
    """
    context = setup(options, console)
    with ExitStack() as stack:
        if context.is_main:
            stack.enter_context(run_lock(context.output_dir))
        resumed = load_checkpoint(context)
        stack.enter_context(context.stop)
        if context.is_main:
            return main(context, extras or RunExtras(), resumed)
        fit_and_validate(context, [], resumed)
        return None


def setup(options: TrainOptions, console: Console) -> TrainContext:
    """Checks options, machine, base model and data, before anything is written."""
    validation.check(options)
    machine = hardware.resolve(options.hardware)
    accelerator = Accelerator(
        gradient_accumulation_steps=options.optimization.gradient_accumulation_steps, mixed_precision=machine.precision
    )
    progress = ProgressBars(console if accelerator.is_main_process else Console(quiet=True))
    for warning in machine.warnings:
        progress.print(f"[yellow]warning[/]: {warning}")
    torch.backends.cuda.matmul.allow_tf32 = options.hardware.allow_tf32
    if options.output.push_to_hub and accelerator.is_main_process:
        hub.check_login()
    base = load_base_model(options.model, Path(options.data.cache_dir))
    train_images, validation_images = split(load_images(options.data, progress.print), options.validation.validation_samples)
    context = TrainContext(
        options=options,
        hardware=machine,
        accelerator=accelerator,
        base=base,
        train_images=train_images,
        validation_images=validation_images,
        width=options.data.width or base.native_size_px,
        height=options.data.height or base.native_size_px,
        output_dir=Path(options.output.output_dir).expanduser(),
        progress=progress,
        stop=StopSignal(),
    )
    base.check_size(context.width, context.height)
    return context


def main(context: TrainContext, extras: RunExtras, resumed: Checkpoint | None) -> TrainResult:
    """The training in the main process, which owns the run's folder and the MLflow run."""
    options, folder = context.options, context.output_dir
    dataset_digest = context.train_images.digest()
    base_digest = source_digest(context.base)
    validation_digest = objective.validation_digest(
        context.validation_images.digest(), base_digest, context.width, context.height
    )
    run = _open_run(context, {"atelier.dataset_digest": dataset_digest, **(extras.tags or {})})
    with _failure_reported(run, context.progress):
        additional = [*additional_sinks(options, folder, run.id), *extras.sinks]
        losses = fit_and_validate(context, [run, *additional], resumed)
        for sink in additional:
            sink.close()
        outcome = Outcome(
            flags=options.flags(),
            dataset_digest=dataset_digest,
            validation_digest=validation_digest,
            validation_images=len(context.validation_images),
            losses=losses,
            published=not extras.publish,
        )
        outcome.write(folder)
        return publish_with_retry(context, run, outcome, extras.publish_retry_s)


def fit_and_validate(context: TrainContext, sinks: Sequence[MetricSink], resumed: Checkpoint | None) -> Losses:
    """From images to the weights that are kept, which the main process writes to the run's folder."""
    data = prepare(context)
    unet = context.base.load_unet().to(context.accelerator.device)
    base_loss = objective.validation_loss(unet, context.base.noise_schedule, data.validation, context.accelerator)
    add_lora(context, unet)
    progress = fit(context, unet, data, sinks, resumed)
    step, loss = _select_weights(context.options, progress, unet)
    losses = Losses(step, loss, base_loss, progress.ema_loss)
    if context.is_main:
        if context.hardware.precision != "no":
            losses = replace(losses, validation_loss=validate_in_float32(context, unet, data))
        adapter.save_weights(unet, context.output_dir)
        values = {
            "kept_validation_loss": losses.validation_loss,
            "kept_step": losses.step,
            "base_validation_loss": losses.base_validation_loss,
        }
        for sink in sinks:
            sink.log_metrics(progress.step, values)
    context.progress.close()
    context.accelerator.wait_for_everyone()
    return losses


def validate_in_float32(context: TrainContext, unet: Any, data: PreparedData) -> float:
    """The validation loss of the UNet's LoRA weights in float32, so that versions trained in other precisions compare."""
    exact = context.base.load_unet().to(context.accelerator.device)
    adapter.inject_lora(exact, **context.options.model.lora)
    adapter.set_lora_weights(exact, adapter.lora_weights(unet))
    return objective.validation_loss(exact, context.base.noise_schedule, data.validation)


def publish_with_retry(context: TrainContext, run: ActiveRun, outcome: Outcome, retry_s: float) -> TrainResult:
    """Publishes the adapter and closes the run; what MLflow does not take now stays in the folder for `sync`."""
    timeout_s = context.options.tracking.tracking_patience_s
    failing_since = None
    while not outcome.published and run.deliver(timeout_s):
        try:
            outcome = publish(context.output_dir, outcome, RunTarget(run.tracking, run.id), context.progress.print)
        except TrackingError as error:
            log.warning("publishing failed, will retry: %s", error)
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since >= timeout_s:
                break
            time.sleep(retry_s)
    run.set_status("FINISHED")
    delivered = run.close(timeout_s if outcome.published else 0.0) and outcome.published
    return TrainResult(run.id, outcome.version, outcome.losses, delivered)


def load_checkpoint(context: TrainContext) -> Checkpoint | None:
    """The checkpoint to resume from; None to start at the first step.

    Raises:
        CheckpointError: it is damaged, of another run or number of processes, or was written under other settings.
    """
    requested, folder = context.options.output.resume_from_checkpoint, context.output_dir
    if requested is None:
        return None
    metadata = read_run_metadata(folder)
    if metadata is not None and (changes := context.options.changes_since(metadata.settings)):
        raise CheckpointError(
            f"the run in {str(folder)!r} was started with other settings ({', '.join(changes)}): restore them, or start a new "
            "run without --resume_from_checkpoint"
        )
    checkpoints = CheckpointFolder(folder, context.accelerator)
    if requested == "latest":
        newest = checkpoints.newest()
        return checkpoints.load(newest) if newest is not None else None
    path = Path(requested).expanduser()
    path = path if path.is_dir() else folder / path.name
    if path.resolve().parent != folder.resolve():
        raise CheckpointError(f"{str(path)!r} belongs to another run; resume it with --output_dir {str(path.parent)!r}")
    return checkpoints.load(path)


def _open_run(context: TrainContext, tags: dict[str, str]) -> ActiveRun:
    """The resumed run, or a new one in an empty folder."""
    options, folder = context.options, context.output_dir
    if options.output.resume_from_checkpoint is None and (archive := archive_run(folder)) is not None:
        context.progress.print(f"moved the files of an earlier run to {archive}")
    tracking = TrackingClient(str(options.tracking.tracking_uri))
    experiment = options.tracking.experiments_name
    run = open_run(folder, tracking, NewRun(experiment, options.tracking.run_name, options.run_params(), tags))
    run.log_text(yaml.safe_dump(options.recipe(), sort_keys=False), RECIPE_FILE)
    context.progress.print(f"run {run.id} of experiment {experiment!r} at {tracking.uri}")
    return run


@contextmanager
def _failure_reported(run: ActiveRun, progress: ProgressBars) -> Iterator[None]:
    """Marks the run FAILED or KILLED where the training ends early; at once if MLflow answers, through the journal anyway."""
    try:
        yield
    except BaseException as error:
        progress.close()
        run.set_status("KILLED" if isinstance(error, KeyboardInterrupt | Stopped | SystemExit) else "FAILED")
        run.close()
        raise


def add_lora(context: TrainContext, unet: Any) -> None:
    """Injects LoRA into the UNet, whose frozen weights take the precision of the forward pass."""
    options, precision = context.options, context.hardware.precision
    if precision != "no":
        unet.to(torch.bfloat16 if precision == "bf16" else torch.float16)
    if context.hardware.xformers:
        unet.enable_xformers_memory_efficient_attention()
    if options.hardware.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    set_seed(options.optimization.seed)  # the initial weights depend on nothing that ran before
    adapter.inject_lora(unet, **options.model.lora)
    if options.model.lora_dropout:
        set_seed(options.optimization.seed + context.accelerator.process_index)  # each process drops other inputs


def _select_weights(options: TrainOptions, progress: TrainProgress, unet: Any) -> tuple[int, float]:
    """Puts the weights that --select names into the UNet; returns their step and validation loss."""
    last = options.validation.select == "last" or progress.best_step == progress.step
    if last or progress.best_weights is None:
        return progress.step, progress.last_loss
    adapter.set_lora_weights(unet, progress.best_weights)
    return progress.best_step, progress.best_loss
