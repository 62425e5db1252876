"""One LoRA training, top to bottom: look, open the run, encode once, inject, step, keep the best, publish."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console

from atelier_trainer import checkpoint, objective
from atelier_trainer.base_model import Base, load_base
from atelier_trainer.checkpoint import Checkpoint
from atelier_trainer.config.hardware import Machine, resolve
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.data.dataset import ImageDataset, load_images, split
from atelier_trainer.errors import CheckpointError, DataError, Stopped, TrackingError
from atelier_trainer.export import adapter, hub
from atelier_trainer.export.publish import RECIPE_FILE, Outcome, lora_of, publish
from atelier_trainer.fit import TrainState, fit
from atelier_trainer.graceful_stop import Stop
from atelier_trainer.prepare import Prepared, prepare
from atelier_trainer.tracking.loggers import reports
from atelier_trainer.tracking.mlflow_runs import Tracking
from atelier_trainer.tracking.progress import Bars
from atelier_trainer.tracking.runs import OpenRun, Sink, archive_run, card_of, held, open_run

log = logging.getLogger(__name__)
PUBLISH_PAUSE_S = 3.0  # between two attempts to hand over


@dataclass(frozen=True)
class Trained:
    """What a run left.

    Attributes:
        run_id: MLflow's.
        version: None where nothing was registered, and in processes beside the main one.
        validation_loss: of the weights that were kept.
        base_validation_loss: without the adapter.
        ema_loss: exponential mean of the training loss at the end.
        step: where the kept weights come from.
        adapter_dir: where they lie.
        delivered: whether MLflow has everything.
    """

    run_id: str
    version: int | None
    validation_loss: float
    base_validation_loss: float
    ema_loss: float
    step: int
    adapter_dir: Path
    delivered: bool


def train(
    options: TrainOptions,
    console: Console,
    *,
    sinks: Sequence[Sink] = (),
    tags: Mapping[str, str] | None = None,
    hand_over: bool = True,
) -> Trained:
    """Fits a LoRA on the options' data set and leaves it in MLflow.

    Args:
        options: complete settings.
        console: progress goes here; a line per stage where it is not a terminal.
        sinks: also get curves and images.
        tags: of the MLflow run, beside our own.
        hand_over: log the adapter as a model; a trial of a search leaves its curves only.

    Raises:
        TrainerError: see atelier_trainer.errors; MLflow's run is marked FAILED, or KILLED on SIGTERM and Ctrl-C.
    """
    options.check()
    machine = resolve(options)
    accelerator = Accelerator(
        gradient_accumulation_steps=options.gradient_accumulation_steps, mixed_precision=machine.precision
    )
    main = accelerator.is_main_process
    bars = Bars(console if main else Console(quiet=True))
    for warning in machine.warnings:
        bars.say(f"[yellow]warning[/]: {warning}")
    torch.backends.cuda.matmul.allow_tf32 = options.allow_tf32
    if options.push_to_hub and main:
        hub.check_login()

    base = load_base(
        options.pretrained_model_name_or_path, options.revision, options.base_name, options.variant, options.prediction_type
    )
    width, height = options.width or base.native_size_px, options.height or base.native_size_px
    _check_size(base, width, height)
    fitted, held_out = split(load_images(options, bars.say), options.validation_samples)
    out = Path(options.output_dir).expanduser()
    tracking = Tracking(str(options.tracking_uri))

    with ExitStack() as stack:
        if main:
            stack.enter_context(held(out))
        resumed = _resumed(options, out, accelerator)
        run = _open(options, out, tracking, {"atelier.dataset_digest": fitted.digest(), **(tags or {})}, bars) if main else None
        stack.enter_context(_told(run, bars))
        stop = stack.enter_context(Stop())
        mine: list[Sink] = [run, *reports(options, out, run.id), *sinks] if run is not None else []
        learned = _learn(
            options, machine, accelerator, base, (fitted, held_out), (width, height), mine, out, resumed, stop, bars
        )
        for sink in mine[1:]:
            sink.close()
        if run is None:
            return learned
        outcome = Outcome(
            asdict(options),
            fitted.digest(),
            objective.validation_digest(held_out.digest(), base.source, width, height),
            len(held_out),
            learned.validation_loss,
            learned.base_validation_loss,
            published=not hand_over,
        )
        outcome.write(out)
        version, delivered = _finish(run, out, outcome, options.tracking_patience_s, bars)
    return replace(learned, run_id=run.id, version=version, delivered=delivered)


def _learn(
    options: TrainOptions,
    machine: Machine,
    accelerator: Accelerator,
    base: Base,
    images: tuple[ImageDataset, ImageDataset],
    size: tuple[int, int],
    sinks: list[Sink],
    out: Path,
    resumed: Checkpoint | None,
    stop: Stop,
    bars: Bars,
) -> Trained:
    """From images to the weights that are kept, which the main process leaves in `out`."""
    data = prepare(options, base, *images, *size, accelerator, bars, stop)
    unet = base.unet().to(accelerator.device)
    validate = _validation(base, unet, data, accelerator)
    base_loss = validate()
    parameters = _inject(options, machine, unet, accelerator.process_index)
    painter = data.painter if accelerator.is_main_process else None
    course = fit(
        options,
        accelerator,
        base.noise,
        unet,
        parameters,
        data.latents,
        data.words,
        validate=validate,
        draw_images=lambda step: painter.draw(unet, step, sinks) if painter is not None else None,
        sinks=sinks,
        out=out,
        resumed=resumed,
        stop=stop,
        progress=bars.steps,
    )
    kept, loss = _keep(options, course, unet)
    if accelerator.is_main_process:
        if machine.precision != "no":
            loss = _in_float32(options, base, unet, data, accelerator)
        adapter.save_weights(unet, out)
        for sink in sinks:
            sink.metrics(course.step, {"kept_validation_loss": loss, "kept_step": kept, "base_validation_loss": base_loss})
    bars.close()
    accelerator.wait_for_everyone()
    return Trained("", None, loss, base_loss, course.ema_loss, kept, out, True)


def _resumed(options: TrainOptions, out: Path, accelerator: Accelerator) -> Checkpoint | None:
    """The checkpoint to go on from; None to begin at the first step.

    Raises:
        CheckpointError: it is damaged, of another run or number of processes, or written under other settings.
    """
    if options.resume_from_checkpoint is None:
        return None
    card = card_of(out)
    if card is not None and (changes := options.differences(card.settings)):
        raise CheckpointError(
            f"the run in {str(out)!r} began with other settings ({', '.join(changes)}): give those, or start anew without "
            "--resume_from_checkpoint"
        )
    if options.resume_from_checkpoint == "latest":
        place = checkpoint.newest(out, accelerator)
        return checkpoint.load(place, accelerator)[0] if place is not None else None
    place = Path(options.resume_from_checkpoint).expanduser()
    place = place if place.is_dir() else out / place.name
    if place.resolve().parent != out.resolve():
        raise CheckpointError(f"{str(place)!r} belongs to another run; set --output_dir {str(place.parent)!r} to go on with it")
    return checkpoint.load(place, accelerator)[0]


def _open(options: TrainOptions, out: Path, tracking: Tracking, tags: dict[str, str], bars: Bars) -> OpenRun:
    """The run that is gone on with, or a new one in a folder of its own."""
    if options.resume_from_checkpoint is None and (moved := archive_run(out)) is not None:
        bars.say(f"an earlier run's files are now in {moved}")
    run = open_run(out, tracking, options.experiments_name, options.run_name, options.resolved(), tags)
    run.text(yaml.safe_dump(options.recipe(), sort_keys=False), RECIPE_FILE)
    bars.say(f"run {run.id} of experiment {options.experiments_name!r} at {tracking.uri}")
    return run


@contextmanager
def _told(run: OpenRun | None, bars: Bars) -> Iterator[None]:
    """Whatever ends the training early is told to MLflow, if it can be reached at once; the journal has it anyway."""
    try:
        yield
    except BaseException as error:
        bars.close()
        if run is not None:
            killed = isinstance(error, KeyboardInterrupt | Stopped | SystemExit)
            run.status("KILLED" if killed else "FAILED", time.time_ns() // 1_000_000)
            run.close()
        raise


def _validation(base: Base, unet: Any, data: Prepared, accelerator: Accelerator) -> Callable[[], float]:
    """The validation loss of the UNet as it is when called; the processes share the work."""

    def add(sums: torch.Tensor) -> torch.Tensor:
        return accelerator.reduce(sums.to(accelerator.device), "sum") if accelerator.num_processes > 1 else sums

    share = (accelerator.process_index, accelerator.num_processes)
    return lambda: objective.validation_loss(unet, base.noise, data.held_out, data.held_out_words, share=share, add=add)


def _inject(options: TrainOptions, machine: Machine, unet: Any, rank: int) -> list[torch.nn.Parameter]:
    """LoRA into the UNet, whose frozen weights take the format of the forward pass."""
    if machine.precision != "no":
        unet.to(torch.bfloat16 if machine.precision == "bf16" else torch.float16)
    if machine.xformers:
        unet.enable_xformers_memory_efficient_attention()
    if options.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    set_seed(options.seed)  # the first weights depend on nothing that came before
    parameters = adapter.inject(unet, **lora_of(options))
    if options.lora_dropout:
        set_seed(options.seed + rank)  # each process leaves out other inputs
    return parameters


def _keep(options: TrainOptions, course: TrainState, unet: Any) -> tuple[int, float]:
    """Puts the weights that are kept into the UNet; returns their step and validation loss."""
    if options.select == "last" or course.best is None or course.best_step == course.step:
        return course.step, course.last_loss
    adapter.put_weights(unet, course.best)
    return course.best_step, course.best_loss


def _in_float32(options: TrainOptions, base: Base, unet: Any, data: Prepared, accelerator: Accelerator) -> float:
    """The validation loss of the kept weights in float32, so that versions trained in other formats compare."""
    exact = base.unet().to(accelerator.device)
    adapter.inject(exact, **lora_of(options))
    adapter.put_weights(exact, adapter.weights_of(unet))
    return objective.validation_loss(exact, base.noise, data.held_out, data.held_out_words)


def _finish(run: OpenRun, out: Path, outcome: Outcome, patience_s: float, bars: Bars) -> tuple[int | None, bool]:
    """Hands everything over; what MLflow cannot take now stays in the folder for `sync`."""
    version, published, failing_since = None, outcome.published, None
    while not published and run.deliver(patience_s):
        try:
            version, published = publish(out, outcome, run.tracking, run.id, bars.say), True
        except TrackingError as error:
            log.warning("%s", error)
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since >= patience_s:
                break
            time.sleep(PUBLISH_PAUSE_S)
    run.status("FINISHED", time.time_ns() // 1_000_000)
    return version, run.close(patience_s if published else 0.0) and published


def _check_size(base: Base, width: int, height: int) -> None:
    multiple = base.size_multiple_px
    for name, value in (("width", width), ("height", height)):
        if value % multiple:
            raise DataError(f"--{name} must be a multiple of {multiple} px for {base.name!r}; received {value}")
