"""The commands `import` and `export`."""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from atelier_trainer.adapter_formats.metadata import autov2
from atelier_trainer.config.cli_args import add_flags, given_flags
from atelier_trainer.config.option_groups import DataOptions, ModelOptions, StyleOptions, ValidationOptions
from atelier_trainer.errors import OptionError, PreviewError

BASE_FLAGS = ("base_name", "revision", "variant", "prediction_type", "pretrained_vae_model_name_or_path", "single_file_config")
DATA_FLAGS = (
    "train_data_dir", "dataset_name", "dataset_config_name", "image_column", "caption_column", "max_train_samples", "skip_bad",
    "width", "height", "cache_dir",
)  # fmt: skip
VALIDATION_FLAGS = ("validation_samples",)
"""Flags of `train` that mean the same here."""


def add_commands(commands: Any) -> None:
    """Adds both to the subparsers of the command line."""
    imports = commands.add_parser(
        "import", help="register LoRA files of other tools", description="Register LoRA files that another tool made."
    )
    imports.add_argument("source", metavar="FILE|DIR|HUB_ID", help="safetensors file, folder of them, or hub repository")
    imports.add_argument(
        "--base", required=True, help="base model that they were trained on: hub id, diffusers folder or checkpoint file"
    )
    imports.add_argument(
        "--register", metavar="NAME", help="registered model; {name} stands for the file's name; needed without --dry_run"
    )
    imports.add_argument("--dry_run", "--dry-run", action="store_true", help="show what the files are and write nothing")
    imports.add_argument("--tracking_uri", "--tracking-uri", help="MLflow server (default: MLFLOW_TRACKING_URI)")
    imports.add_argument("--experiments_name", "--experiments-name", default="import", help="MLflow experiment")
    imports.add_argument(
        "--network_alpha", "--network-alpha", type=float, help="alpha of layers whose file has none (default: their rank)"
    )
    imports.add_argument(
        "--max_error", "--max-error", type=float, default=0.01, help="largest relative error of a layer that LoRA approximates"
    )
    imports.add_argument("--max_rank", "--max-rank", type=int, default=256, help="largest rank of such a layer")
    imports.add_argument("--preview", type=Path, metavar="FILE", help="PNG, JPEG or WebP of the style; default: the file's own")
    add_flags(imports, StyleOptions)
    for options, names in ((ModelOptions, BASE_FLAGS), (DataOptions, DATA_FLAGS), (ValidationOptions, VALIDATION_FLAGS)):
        add_flags(imports, options, names)
    imports.set_defaults(command=_import)

    exports = commands.add_parser(
        "export", help="write a version as a LoRA file of another tool", description="Write a registered version as a file."
    )
    exports.add_argument("version", metavar="MODEL:VERSION|MODEL@ALIAS", help="for example ink:3 or ink@champion")
    exports.add_argument(
        "--format", choices=("diffusers", "kohya", "comfyui"), default="kohya", help="whose names the keys get"
    )
    exports.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors file to write")
    exports.add_argument("--overwrite", action="store_true", help="replace an existing file")
    exports.add_argument("--tracking_uri", "--tracking-uri", help="MLflow server (default: MLFLOW_TRACKING_URI)")
    exports.set_defaults(command=_export)


def _import(parsed: argparse.Namespace, console: Console) -> int:
    uri = parsed.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not parsed.dry_run and (parsed.register is None or uri is None):
        raise OptionError("import needs --register and --tracking_uri or MLFLOW_TRACKING_URI; --dry_run needs neither")
    for name in ("network_alpha", "max_error", "max_rank"):
        value = getattr(parsed, name)
        if value is not None and not value > 0:
            raise OptionError(f"--{name} must be positive; received {value}")
    style = StyleOptions(**given_flags(parsed, StyleOptions)).to_style()
    from atelier_trainer.adapter_formats.network_types import ConversionLimits
    from atelier_trainer.base_models.load import load_base_model
    from atelier_trainer.exchange.held_out import load_held_out
    from atelier_trainer.exchange.import_adapter import Importer, ImportOptions, check_register, find_sources, print_summary
    from atelier_trainer.tracking.mlflow_client import TrackingClient

    data, validation = (
        DataOptions(**given_flags(parsed, DataOptions)),
        ValidationOptions(**given_flags(parsed, ValidationOptions)),
    )
    measured = _check_data(parsed, data)
    report = functools.partial(console.print, soft_wrap=True, highlight=False)
    sources = find_sources(parsed.source)
    if parsed.preview is not None and len(sources) > 1:
        raise OptionError(f"--preview is of one style; received {len(sources)} files: import them one by one")
    model = ModelOptions(pretrained_model_name_or_path=parsed.base, **given_flags(parsed, ModelOptions))
    base = load_base_model(model, Path(data.cache_dir))
    options = ImportOptions(
        register=parsed.register or "{name}",
        experiment=parsed.experiments_name,
        cache_dir=Path(data.cache_dir).expanduser(),
        network_alpha=parsed.network_alpha,
        limits=ConversionLimits(parsed.max_error, parsed.max_rank),
        style=style,
        preview=_read_preview(parsed.preview) if parsed.preview is not None else None,
        held_out=load_held_out(base, data, validation.validation_samples, report) if measured else None,
    )
    check_register(options.register, sources)
    importer = Importer(base, options)
    prepared = [importer.prepare(source) for source in sources]  # all of them, before anything is written
    for one in prepared:
        print_summary(one, console)
    if parsed.dry_run:
        return 0
    tracking, results = TrackingClient(str(uri)), []
    for one in prepared:
        imported = importer.register(one, tracking, report)
        console.print(f"version {imported.version} of {imported.model}", highlight=False)
        results.append({"model": imported.model, "version": imported.version, "run_id": imported.run_id})
    console.print_json(data=results if len(results) > 1 else results[0])
    return 0


def _check_data(parsed: argparse.Namespace, data: DataOptions) -> bool:
    """Whether there is a data set to measure the validation loss on; raises OptionError where its flags make no sense."""
    if data.train_data_dir is not None and data.dataset_name is not None:
        raise OptionError(
            "give at most one of --train_data_dir and --dataset_name; "
            f"received {data.train_data_dir!r} and {data.dataset_name!r}"
        )
    if data.train_data_dir is None and data.dataset_name is None:
        about_data = [name for name in (*DATA_FLAGS, *VALIDATION_FLAGS) if name != "cache_dir" and hasattr(parsed, name)]
        if about_data:
            raise OptionError(f"--{about_data[0]} needs --train_data_dir or --dataset_name, which the loss is measured on")
        return False
    for name in (*VALIDATION_FLAGS, "max_train_samples", "width", "height"):
        value = getattr(parsed, name, None)
        if value is not None and value < 1:
            raise OptionError(f"--{name} must be 1 or more; received {value}")
    return True


def _read_preview(file: Path) -> bytes:
    from atelier_trainer.adapter_formats.preview import MAX_SOURCE_BYTES, make_preview

    try:
        with file.expanduser().open("rb") as stream:
            return make_preview(stream.read(MAX_SOURCE_BYTES + 1))
    except (OSError, PreviewError) as error:
        raise OptionError(f"--preview {str(file)!r}: {error}") from error


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
        f"(AutoV2 {autov2(written.sha256)})",
        soft_wrap=True,
        highlight=False,
    )
    return 0
