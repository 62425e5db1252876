"""`python -m atelier_trainer`: make a data set, train a LoRA, search for settings, bring a run to MLflow, make a base."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from atelier_trainer.config import cli_args
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.errors import OptionError, Stopped, TrainerError
from atelier_trainer.synthetic.scenes.dataset import STYLES, write_imagefolder
from atelier_trainer.tune.options import TuneOptions

REFUSED, UNDELIVERED, INTERRUPTED, TERMINATED = 2, 3, 130, 143
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",  # our own bars say how far a stage is
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Libraries read these while they are imported; what the environment says already wins."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0 done; 2 refused; 3 trained, but MLflow has not got all of it; 130 interrupted; 143 SIGTERM, after a checkpoint.
    """
    parsed = _parser().parse_args(arguments)
    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return int(parsed.command(parsed, console))
    except (TrainerError, OSError) as error:
        console.print("[bold red]error[/]: ", end="")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return TERMINATED if isinstance(error, Stopped) else REFUSED
    except KeyboardInterrupt:
        console.print("interrupted")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m atelier_trainer", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    dataset = commands.add_parser("dataset", help="write a folder of captioned scenes", description="Write an image folder.")
    dataset.add_argument("out", type=Path, help="folder to make; must not hold anything yet")
    dataset.add_argument("--style", choices=tuple(STYLES), default="sketch")
    dataset.add_argument("--count", type=int, default=1000, help="images")
    dataset.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    dataset.set_defaults(command=_dataset)

    train = commands.add_parser("train", help="fit a LoRA and leave it in MLflow", description="Fit a LoRA.")
    _add_sources(train)
    train.add_argument(
        "--result_file", type=Path, help="write run id, version and losses to this JSON file instead of printing them"
    )
    cli_args.add_flags(train, TrainOptions)
    train.set_defaults(command=_train)

    tune = commands.add_parser(
        "tune", help="search for good settings with Ray Tune", description="Many trainings, the best named."
    )
    _add_sources(tune)
    cli_args.add_flags(tune, TuneOptions)
    cli_args.add_flags(tune, TrainOptions)
    tune.set_defaults(command=_tune)

    sync = commands.add_parser("sync", help="bring what a run's folder still has to MLflow")
    sync.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="--output_dir of a training or a search")
    sync.add_argument("--tracking_uri", "--tracking-uri", help="where the server is now (default: where the run began)")
    sync.set_defaults(command=_sync)

    base = commands.add_parser("base", help="make the tiny base model (hours), or a full-size one with random weights")
    base.add_argument("out", type=Path, help="diffusers folder to write")
    base.add_argument("--architecture", choices=("tiny", "sd15", "sd21"), default="tiny")
    base.add_argument("--random", action="store_true", help="random weights: for measuring speed and memory only")
    base.add_argument("--start", type=Path, metavar="DIR", help="tiny: begin with the weights of this diffusers folder")
    base.add_argument("--state_dir", type=Path, default=Path("~/.cache/atelier/tiny-base"), help="images, latents, checkpoints")
    base.add_argument("--scenes", type=int, default=20_000, help="colour scenes for the UNet")
    base.add_argument("--vae_scenes", type=int, default=5_000, help="scenes of each style for the VAE")
    base.add_argument("--vae_steps", type=int, default=2_600)
    base.add_argument("--decoder_steps", type=int, default=800, help="then of the VAE's decoder alone, on noisy latents")
    base.add_argument("--unet_steps", type=int, default=6_500)
    base.add_argument("--seed", type=int, default=1)
    base.set_defaults(command=_base)
    return parser


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="YAML file of flags; the command line wins")
    parser.add_argument(
        "--from_run", "--from-run", metavar="RUN_ID", help="start from the settings of a run, or of a search's best trial"
    )


def _dataset(parsed: argparse.Namespace, console: Console) -> int:
    try:
        write_imagefolder(parsed.out, parsed.style, parsed.count, parsed.seed)
    except ValueError as error:
        raise TrainerError(str(error)) from error
    console.print(f"wrote {parsed.count} {parsed.style} images to {parsed.out}", soft_wrap=True)
    return 0


def _options(parsed: argparse.Namespace) -> TrainOptions:
    """Command line over recipe over earlier run over defaults."""
    given = cli_args.given(parsed, TrainOptions)
    recipe = cli_args.read_recipe(parsed.recipe, TrainOptions) if parsed.recipe is not None else {}
    values = recipe | given
    if parsed.from_run is not None:
        from atelier_trainer.tune.best_trial import settings_of

        uri = values.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            raise OptionError("--from_run needs --tracking_uri or MLFLOW_TRACKING_URI")
        values = settings_of(str(uri), parsed.from_run) | values
    chosen = cli_args.build(TrainOptions, values, os.environ)
    chosen.check()
    return chosen


def _train(parsed: argparse.Namespace, console: Console) -> int:
    chosen = _options(parsed)
    from atelier_trainer.train import train  # torch takes seconds to import: help and refusals should not wait for it

    trained = train(chosen, console)
    if os.environ.get("RANK", "0") != "0":
        return 0
    facts: dict[str, Any] = {
        "run_id": trained.run_id,
        "model": chosen.register,
        "version": trained.version,
        "validation_loss": trained.validation_loss,
        "base_validation_loss": trained.base_validation_loss,
        "ema_loss": trained.ema_loss,
        "step": trained.step,
    }
    if parsed.result_file is None:
        console.print_json(data=facts)
    else:
        partial = parsed.result_file.with_suffix(".part")
        partial.write_text(json.dumps(facts, indent=2))
        partial.replace(parsed.result_file)
    if trained.delivered:
        return 0
    console.print(
        f"[yellow]warning[/]: the training is complete and {chosen.tracking_uri} has not got all of it; once it answers: "
        f"python -m atelier_trainer sync {chosen.output_dir}",
        soft_wrap=True,
    )
    return UNDELIVERED


def _tune(parsed: argparse.Namespace, console: Console) -> int:
    search = cli_args.build(TuneOptions, cli_args.given(parsed, TuneOptions), os.environ)
    search.check()
    chosen = _options(parsed)
    from atelier_trainer.tune.search import tune

    console.print_json(data=tune(search, chosen, console))
    return 0


def _sync(parsed: argparse.Namespace, console: Console) -> int:
    from atelier_trainer.sync import sync

    sync(parsed.run_dir.expanduser(), parsed.tracking_uri, lambda text: console.print(text, soft_wrap=True, highlight=False))
    return 0


def _base(parsed: argparse.Namespace, console: Console) -> int:
    if parsed.random != (parsed.architecture != "tiny"):
        raise OptionError(
            f"--random goes with --architecture sd15 or sd21, tiny is trained; received --architecture {parsed.architecture}"
            + (" with --random" if parsed.random else " without --random")
        )
    if parsed.random:
        from atelier_trainer.synthetic.random_base import write_random_base

        count = write_random_base(parsed.out, parsed.architecture, parsed.seed)
        console.print(f"wrote {parsed.out}: {count / 1e6:.0f} M random parameters", soft_wrap=True)
        return 0
    from atelier_trainer.synthetic.tiny_base.build import make

    logging.getLogger("atelier_trainer").setLevel(logging.INFO)
    make(
        parsed.out,
        parsed.state_dir.expanduser(),
        scenes=parsed.scenes,
        vae_scenes=parsed.vae_scenes,
        vae_steps=parsed.vae_steps,
        decoder_steps=parsed.decoder_steps,
        unet_steps=parsed.unet_steps,
        seed=parsed.seed,
        start=parsed.start,
    )
    console.print(f"wrote {parsed.out}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
