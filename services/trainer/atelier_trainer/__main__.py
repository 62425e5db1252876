"""`python -m atelier_trainer`: generates data sets, trains LoRA adapters, searches for settings, makes base models."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from atelier_trainer.config import cli_args, validation
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.errors import OptionError, Stopped, TrainerError
from atelier_trainer.exchange import commands as exchange
from atelier_trainer.synthetic.scenes.dataset import STYLES, write_imagefolder
from atelier_trainer.tune.options import TuneOptions

ERROR, UNDELIVERED, INTERRUPTED, TERMINATED = 2, 3, 130, 143
ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "TQDM_DISABLE": "1",  # we have progress bars of our own
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Read by libraries when they are imported."""
SPIN_COUNT = "3000"
"""How often a waiting thread of libgomp looks for work before it sleeps, so that other programs get the cores.

Its default is 300000. With 0 a step of a small model takes half as long again on a quiet machine:
benchmarks/busy_machine.py.
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0 success; 2 error; 3 trained, but MLflow does not have everything; 130 Ctrl-C; 143 SIGTERM, after a checkpoint.
    """
    parsed = _parser().parse_args(arguments)
    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    set_environment()
    try:
        return int(parsed.command(parsed, console))
    except (TrainerError, OSError) as error:
        console.print("[bold red]error[/]: ", end="")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return TERMINATED if isinstance(error, Stopped) else ERROR
    except KeyboardInterrupt:
        console.print("interrupted")
        return INTERRUPTED


def set_environment() -> None:
    """Sets ENVIRONMENT for libraries that are not imported yet; variables that are set already win."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "OMP_WAIT_POLICY" not in os.environ:  # libgomp would let the count win over it
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m atelier_trainer", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    dataset = commands.add_parser("dataset", help="generate captioned images", description="Generate an image folder.")
    dataset.add_argument("out", type=Path, help="folder to create; must be empty if it exists")
    dataset.add_argument("--style", choices=tuple(STYLES), default="sketch")
    dataset.add_argument("--count", type=int, default=1000, help="number of images")
    dataset.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    dataset.set_defaults(command=_dataset)

    train = commands.add_parser("train", help="train a LoRA adapter and log it to MLflow", description="Train a LoRA adapter.")
    _add_sources(train)
    train.add_argument(
        "--result_file", type=Path, help="write run id, version and losses to this JSON file instead of printing them"
    )
    cli_args.add_flags(train, TrainOptions)
    train.set_defaults(command=_train)

    tune = commands.add_parser(
        "tune", help="search for the best settings with Ray Tune", description="Run many trainings and rank them."
    )
    _add_sources(tune)
    cli_args.add_flags(tune, TuneOptions)
    cli_args.add_flags(tune, TrainOptions)
    tune.set_defaults(command=_tune)

    exchange.add_commands(commands)

    sync = commands.add_parser("sync", help="deliver to MLflow what it did not take during the training")
    sync.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="--output_dir of a training or a search")
    sync.add_argument("--tracking_uri", "--tracking-uri", help="MLflow server (default: that of the run)")
    sync.set_defaults(command=_sync)

    base = commands.add_parser("base", help="train the tiny base model (hours), or write a full-size one with random weights")
    base.add_argument("out", type=Path, help="diffusers folder to write")
    base.add_argument("--architecture", choices=("tiny", "sd15", "sd21", "sdxl"), default="tiny")
    base.add_argument("--random", action="store_true", help="random weights, to measure speed and memory")
    base.add_argument("--start", type=Path, metavar="DIR", help="tiny: start from the weights of this diffusers folder")
    base.add_argument("--state_dir", type=Path, default=Path("~/.cache/atelier/tiny-base"), help="images, latents, checkpoints")
    base.add_argument("--scenes", type=int, default=20_000, help="colour scenes for the UNet")
    base.add_argument("--vae_scenes", type=int, default=5_000, help="scenes of each style for the VAE")
    base.add_argument("--vae_steps", type=int, default=2_600)
    base.add_argument("--decoder_steps", type=int, default=800, help="of the VAE's decoder alone, on noisy latents")
    base.add_argument("--unet_steps", type=int, default=6_500)
    base.add_argument("--seed", type=int, default=1)
    base.set_defaults(command=_base)
    return parser


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="YAML file of flags; flags of the command line win")
    parser.add_argument(
        "--from_run", "--from-run", metavar="RUN_ID", help="use the settings of a run, or of a search's best trial"
    )


def _dataset(parsed: argparse.Namespace, console: Console) -> int:
    try:
        write_imagefolder(parsed.out, parsed.style, parsed.count, parsed.seed)
    except ValueError as error:
        raise TrainerError(str(error)) from error
    console.print(f"wrote {parsed.count} {parsed.style} images to {parsed.out}", soft_wrap=True)
    return 0


def _options(parsed: argparse.Namespace) -> TrainOptions:
    """Flags of the command line win over the recipe, the recipe over the earlier run, that over the defaults."""
    given = cli_args.given_flags(parsed, TrainOptions)
    recipe = cli_args.read_recipe(parsed.recipe, TrainOptions) if parsed.recipe is not None else {}
    flags = recipe | given
    flags["tracking_uri"] = flags.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI")
    if parsed.from_run is not None:
        from atelier_trainer.tune.best_trial import read_settings

        if flags["tracking_uri"] is None:
            raise OptionError("--from_run needs --tracking_uri or MLFLOW_TRACKING_URI")
        flags = read_settings(str(flags["tracking_uri"]), parsed.from_run) | flags
    options = TrainOptions.from_flags(**flags)
    validation.check(options)
    return options


def _train(parsed: argparse.Namespace, console: Console) -> int:
    options = _options(parsed)
    from atelier_trainer.train import train  # torch takes seconds to import: help and errors should not wait for it

    result = train(options, console)
    if result is None:
        return 0
    summary = {"run_id": result.run_id, "model": options.output.register, "version": result.version} | asdict(result.losses)
    if parsed.result_file is None:
        console.print_json(data=summary)
    else:
        partial = parsed.result_file.with_suffix(".part")
        partial.write_text(json.dumps(summary, indent=2))
        partial.replace(parsed.result_file)
    if result.delivered:
        return 0
    console.print(
        f"[yellow]warning[/]: the training is complete, but {options.tracking.tracking_uri} does not have everything; once it "
        f"answers: python -m atelier_trainer sync {options.output.output_dir}",
        soft_wrap=True,
    )
    return UNDELIVERED


def _tune(parsed: argparse.Namespace, console: Console) -> int:
    search_options = TuneOptions(**cli_args.given_flags(parsed, TuneOptions))
    search_options.check()
    train_options = _options(parsed)
    from atelier_trainer.tune.search import tune

    console.print_json(data=tune(search_options, train_options, console))
    return 0


def _sync(parsed: argparse.Namespace, console: Console) -> int:
    from atelier_trainer.sync import sync

    sync(parsed.run_dir.expanduser(), parsed.tracking_uri, lambda text: console.print(text, soft_wrap=True, highlight=False))
    return 0


def _base(parsed: argparse.Namespace, console: Console) -> int:
    if parsed.random != (parsed.architecture != "tiny"):
        raise OptionError(
            "--random needs --architecture sd15, sd21 or sdxl, which need --random; received --architecture "
            f"{parsed.architecture} {'with' if parsed.random else 'without'} --random"
        )
    if parsed.random:
        from atelier_trainer.synthetic.random_base import write_random_base

        count = write_random_base(parsed.out, parsed.architecture, parsed.seed)
        console.print(f"wrote {parsed.out}: {count / 1e6:.0f} M random parameters", soft_wrap=True)
        return 0
    from atelier_trainer.synthetic.tiny_base.build import TinyBaseRecipe, build_tiny_base

    logging.getLogger("atelier_trainer").setLevel(logging.INFO)
    recipe = TinyBaseRecipe(
        scenes=parsed.scenes,
        vae_scenes=parsed.vae_scenes,
        vae_steps=parsed.vae_steps,
        decoder_steps=parsed.decoder_steps,
        unet_steps=parsed.unet_steps,
        seed=parsed.seed,
    )
    build_tiny_base(parsed.out, parsed.state_dir.expanduser(), recipe, parsed.start)
    console.print(f"wrote {parsed.out}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
