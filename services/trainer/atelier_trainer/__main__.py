"""`python -m atelier_trainer`: make a data set, train a LoRA, make the tiny base."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from rich.console import Console

from atelier_trainer import options
from atelier_trainer.errors import TrainerError
from atelier_trainer.scenes.dataset import STYLES, write_imagefolder

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
    """Runs one command and returns its exit code: 0 done, 2 refused, 130 interrupted."""
    parsed = _parser().parse_args(arguments)
    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return int(parsed.command(parsed, console))
    except TrainerError as error:
        console.print(f"[bold red]error[/]: {error}", markup=True, highlight=False, soft_wrap=True)
        return 2
    except OSError as error:
        console.print(f"[bold red]error[/]: {error}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m atelier_trainer", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    dataset = commands.add_parser("dataset", help="write a folder of captioned scenes", description="Write an image folder.")
    dataset.add_argument("out", type=Path, help="folder to make; must not hold anything yet")
    dataset.add_argument("--style", choices=tuple(STYLES), default="sketch")
    dataset.add_argument("--count", type=int, default=1000, help="pictures")
    dataset.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    dataset.set_defaults(command=_dataset)

    train = commands.add_parser("train", help="fit a LoRA and leave it in MLflow", description="Fit a LoRA.")
    options.add_flags(train)
    train.add_argument(
        "--result_file", type=Path, help="write run id, version and losses to this JSON file instead of printing them"
    )
    train.set_defaults(command=_train)

    base = commands.add_parser("base", help="make the tiny base model from nothing (hours)")
    base.add_argument("out", type=Path, help="diffusers folder to write")
    base.add_argument(
        "--state_dir", type=Path, default=Path("~/.cache/atelier/tiny-base"), help="pictures, latents, checkpoints"
    )
    base.add_argument("--scenes", type=int, default=20_000, help="colour scenes for the UNet")
    base.add_argument("--vae_scenes", type=int, default=5_000, help="scenes of each style for the VAE")
    base.add_argument("--vae_steps", type=int, default=2_600)
    base.add_argument("--decoder_steps", type=int, default=800, help="then of the VAE's decoder alone, on noisy latents")
    base.add_argument("--unet_steps", type=int, default=6_500)
    base.add_argument("--seed", type=int, default=1)
    base.set_defaults(command=_base)
    return parser


def _dataset(parsed: argparse.Namespace, console: Console) -> int:
    try:
        write_imagefolder(parsed.out, parsed.style, parsed.count, parsed.seed)
    except ValueError as error:
        raise TrainerError(str(error)) from error
    console.print(f"wrote {parsed.count} {parsed.style} pictures to {parsed.out}", soft_wrap=True)
    return 0


def _train(parsed: argparse.Namespace, console: Console) -> int:
    chosen = options.from_arguments(parsed, dict(os.environ))
    chosen.check()
    from atelier_trainer.train import train  # torch takes seconds to import: help and refusals should not wait for it

    trained = train(chosen, console)
    facts = {
        "run_id": trained.run_id,
        "model": chosen.register,
        "version": trained.version,
        "validation_loss": trained.validation_loss,
        "base_validation_loss": trained.base_validation_loss,
        "ema_loss": trained.ema_loss,
    }
    if parsed.result_file is None:
        console.print_json(data=facts)
        return 0
    partial = parsed.result_file.with_suffix(".part")
    partial.write_text(json.dumps(facts, indent=2))
    partial.replace(parsed.result_file)
    return 0


def _base(parsed: argparse.Namespace, console: Console) -> int:
    from atelier_trainer.tiny_base.make import make

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
    )
    console.print(f"wrote {parsed.out}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
