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
from atelier_trainer.synthetic.scenes.dataset import STYLES, write_imagefolder
from atelier_trainer.tune.options import TuneOptions

ERROR, UNDELIVERED, INTERRUPTED, TERMINATED = 2, 3, 130, 143
ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
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

    importing = commands.add_parser(
        "import", help="register LoRA files of other tools", description="Register LoRA files that another tool made."
    )
    importing.add_argument("source", metavar="FILE|DIR|HUB_ID", help="safetensors file, folder of them, or hub repository")
    importing.add_argument("--base", required=True, help="base model that they were trained on: hub id or diffusers folder")
    importing.add_argument("--base_name", "--base-name", help="name of a local base model in the registry")
    importing.add_argument(
        "--register", metavar="NAME", help="registered model; {name} stands for the file's name; needed without --dry_run"
    )
    importing.add_argument("--dry_run", "--dry-run", action="store_true", help="show what the files are and write nothing")
    importing.add_argument("--tracking_uri", "--tracking-uri", help="MLflow server (default: MLFLOW_TRACKING_URI)")
    importing.add_argument("--experiments_name", "--experiments-name", default="import", help="MLflow experiment")
    importing.add_argument(
        "--cache_dir", "--cache-dir", type=Path, default=Path("~/.cache/atelier"), help="keeps the base model's bundle"
    )
    importing.add_argument(
        "--network_alpha", "--network-alpha", type=float, help="alpha of layers whose file has none (default: their rank)"
    )
    importing.add_argument(
        "--max_error", "--max-error", type=float, default=0.01, help="largest relative error of a layer that LoRA approximates"
    )
    importing.add_argument("--max_rank", "--max-rank", type=int, default=256, help="largest rank of such a layer")
    importing.add_argument("--title", help="of the style; default: the file's own")
    importing.add_argument("--description", help="of the style; default: the file's own")
    importing.add_argument("--author", help="of the style; default: the file's own")
    importing.add_argument("--licence", help="of the style; default: the file's own")
    importing.add_argument("--trigger_words", "--trigger-words", help="separated by commas; default: the file's own")
    importing.set_defaults(command=_import)

    exporting = commands.add_parser(
        "export", help="write a version as a LoRA file of another tool", description="Write a registered version as a file."
    )
    exporting.add_argument("version", metavar="MODEL:VERSION|MODEL@ALIAS", help="for example ink:3 or ink@champion")
    exporting.add_argument(
        "--format", choices=("diffusers", "kohya", "comfyui"), default="kohya", help="whose names the keys get"
    )
    exporting.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors file to write")
    exporting.add_argument("--overwrite", action="store_true", help="replace an existing file")
    exporting.add_argument("--tracking_uri", "--tracking-uri", help="MLflow server (default: MLFLOW_TRACKING_URI)")
    exporting.set_defaults(command=_export)

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


def _import(parsed: argparse.Namespace, console: Console) -> int:
    uri = parsed.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not parsed.dry_run and (parsed.register is None or uri is None):
        raise OptionError("import needs --register and --tracking_uri or MLFLOW_TRACKING_URI, or --dry_run to look only")
    for name in ("network_alpha", "max_error", "max_rank"):
        value = getattr(parsed, name)
        if value is not None and not value > 0:
            raise OptionError(f"--{name} must be positive; received {value}")
    from atelier_contracts.manifests import Style

    from atelier_trainer.adapter_formats.network_types import ConversionLimits
    from atelier_trainer.base_model import load_base_model
    from atelier_trainer.config.option_groups import ModelOptions
    from atelier_trainer.exchange.import_adapter import Importer, ImportOptions, check_register, find_sources, show
    from atelier_trainer.tracking.mlflow_client import TrackingClient

    sources = find_sources(parsed.source)
    given = {name: value for name in ("title", "description", "author", "licence") if (value := getattr(parsed, name))}
    if parsed.trigger_words:
        given["trigger_words"] = tuple(word.strip() for word in parsed.trigger_words.split(",") if word.strip())
    options = ImportOptions(
        register=parsed.register or "{name}",
        experiment=parsed.experiments_name,
        cache_dir=parsed.cache_dir.expanduser(),
        network_alpha=parsed.network_alpha,
        limits=ConversionLimits(parsed.max_error, parsed.max_rank),
        style=Style(**given),
    )
    check_register(options.register, sources)
    base = load_base_model(ModelOptions(pretrained_model_name_or_path=parsed.base, base_name=parsed.base_name))
    importer = Importer(base, options)
    prepared = [importer.prepare(source) for source in sources]  # all of them, before anything is written
    for one in prepared:
        show(one, console)
    if parsed.dry_run:
        return 0
    tracking, results = TrackingClient(str(uri)), []
    for one in prepared:
        imported = importer.register(one, tracking, lambda text: console.print(text, soft_wrap=True, highlight=False))
        console.print(f"version {imported.version} of {imported.model}", highlight=False)
        results.append({"model": imported.model, "version": imported.version, "run_id": imported.run_id})
    console.print_json(data=results if len(results) > 1 else results[0])
    return 0


def _export(parsed: argparse.Namespace, console: Console) -> int:
    uri, file = parsed.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"), parsed.out.expanduser()
    if uri is None:
        raise OptionError("export needs --tracking_uri or MLFLOW_TRACKING_URI")
    if file.exists() and not parsed.overwrite:
        raise OptionError(f"--out: {str(file)!r} exists; give another name, or --overwrite")
    from atelier_trainer.exchange.export_adapter import export_adapter
    from atelier_trainer.tracking.mlflow_client import TrackingClient

    written = export_adapter(parsed.version, parsed.format, file, TrackingClient(uri))
    console.print(
        f"wrote version {written.version} of {written.model} to {file}: sha256 {written.sha256} "
        f"(AutoV2 {written.sha256[:10].upper()})",
        soft_wrap=True,
        highlight=False,
    )
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
