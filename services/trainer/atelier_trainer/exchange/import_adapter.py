"""`import`: a LoRA file of another tool becomes a registered version of one base model."""

from __future__ import annotations

import functools
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, Evidence, ImportSource
from atelier_contracts.styles import Style, merge_patch
from rich.console import Console
from rich.table import Table

from atelier_trainer.adapter_formats.layer_names import LayerNames
from atelier_trainer.adapter_formats.metadata import THUMBNAIL_KEY, autov2, describe, read_style
from atelier_trainer.adapter_formats.network_types import ConversionLimits, Layer
from atelier_trainer.adapter_formats.preview import read_thumbnail
from atelier_trainer.adapter_formats.read_adapter import ReadAdapter, read_adapter
from atelier_trainer.adapter_formats.weights_file import WeightsFile, read_weights_file
from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.base_models.hub_file import SUFFIX, download_file, is_hub_location
from atelier_trainer.errors import AdapterFileError, OptionError, PreviewError
from atelier_trainer.exchange.held_out import HeldOutImages
from atelier_trainer.export.adapter import save_pairs
from atelier_trainer.export.manifests import write_adapter_manifest, write_evidence
from atelier_trainer.export.onnx.lora_inputs import layer_shape
from atelier_trainer.export.parity import measure_parity
from atelier_trainer.export.publish import RunTarget, fetch_or_export_bundle, log_and_register
from atelier_trainer.tracking.mlflow_client import TrackingClient


@dataclass(frozen=True)
class ImportOptions:
    """How files are imported.

    Attributes:
        register: registered model; `{name}` stands for the name of the file.
        experiment: MLflow's experiment for the run.
        cache_dir: keeps the base model's bundle.
        network_alpha: for layers whose alpha the file does not have; their rank by default.
        limits: of the conversion.
        style: what the file's metadata says is replaced by what is given here.
        preview: a WebP, instead of the file's thumbnail.
        held_out: images to measure the validation loss on.
    """

    register: str
    experiment: str
    cache_dir: Path
    network_alpha: float | None = None
    limits: ConversionLimits = field(default_factory=ConversionLimits)
    style: Style = field(default_factory=Style)
    preview: bytes | None = None
    held_out: HeldOutImages | None = None


@dataclass(frozen=True)
class Source:
    """A file to import, and what to call it."""

    path: Path
    shown: str


@dataclass(frozen=True)
class Imported:
    """A registered version."""

    model: str
    version: int
    run_id: str
    manifest: AdapterManifest


@dataclass(frozen=True)
class Prepared:
    """A file that was read and fits the base model.

    Attributes:
        model: name of the registered model that it will be a version of.
        preview: a WebP; None where neither the file nor the options have a picture.
        preview_problem: why the file's thumbnail is left out; empty otherwise.
    """

    source: Source
    file: WeightsFile
    adapter: ReadAdapter
    style: Style
    model: str
    preview: bytes | None = None
    preview_problem: str = ""


def find_sources(location: str) -> list[Source]:
    """The safetensors files of a file name, a folder, or a repository of the Hugging Face hub.

    Raises:
        AdapterFileError: there is none.
        HubError: the hub does not have it.
    """
    path = Path(location).expanduser()
    if path.is_file():
        return [Source(path, path.name)]
    if path.is_dir():
        files = sorted(path.glob(f"*{SUFFIX}"))
        if not files:
            raise AdapterFileError(f"there is no {SUFFIX} file in the folder {location!r}")
        return [Source(file, file.name) for file in files]
    if is_hub_location(location):
        file = download_file(location)
        return [Source(file, f"{location.partition(':')[0]}/{file.name}")]
    raise AdapterFileError(f"there is no file or folder {location!r}; give one, or the id of a hub repository")


class Importer:
    """Reads files for one base model and registers them.

    Args:
        base: that the files were trained on.
        options: of all files.
    """

    def __init__(self, base: BaseModel, options: ImportOptions) -> None:
        self.base, self.options = base, options
        models = base.skeletons()
        self._layers = {
            f"{part}.{name}": layer
            for part, groups in base.family.lora_layers(models).items()
            for layers in groups.values()
            for name, layer in layers.items()
        }
        self._names = LayerNames(base.family, self._layers)

    def prepare(self, source: Source) -> Prepared:
        """Reads a file and converts it; nothing is written.

        Raises:
            AdapterFileError: it is damaged, does not fit the base model, or cannot be expressed as LoRA.
        """
        file = read_weights_file(source.path)
        weights = functools.cache(self._load_weights)
        layers = {name: _layer(name, module, weights) for name, module in self._layers.items()}
        adapter = read_adapter(
            file, self.base.name, self._names, layers, limits=self.options.limits, network_alpha=self.options.network_alpha
        )
        own, given = read_style(file.metadata).model_dump(), self.options.style.model_dump(exclude_defaults=True)
        style = Style(**merge_patch(own, given))
        model = self.options.register.replace("{name}", re.sub(r"[^A-Za-z0-9_.-]+", "-", source.path.stem))
        preview, problem = self.options.preview, ""
        if preview is None and (thumbnail := file.metadata.get(THUMBNAIL_KEY, "")):
            try:
                preview = read_thumbnail(thumbnail)
            except PreviewError as error:
                problem = str(error)
        return Prepared(source, file, adapter, style, model, preview, problem)

    def register(self, prepared: Prepared, tracking: TrackingClient, report: Callable[[str], None]) -> Imported:
        """Compares ONNX Runtime with stock diffusers, which loads the converted file, and registers it as a version.

        Raises:
            TrackingError: MLflow did not answer, or refused.
            ExportError: ONNX Runtime and diffusers differ.
        """
        run_id = tracking.create_run(self.options.experiment, f"import {prepared.source.shown}", {})
        status = "FAILED"
        try:
            imported = self._register(prepared, RunTarget(tracking, run_id), report)
            status = "FINISHED"
        finally:
            tracking.end_run(run_id, status)
        return imported

    def _register(self, prepared: Prepared, target: RunTarget, report: Callable[[str], None]) -> Imported:
        base, pairs = self.base, prepared.adapter.pairs
        origin = ImportSource(
            file=prepared.source.shown,
            sha256=prepared.file.sha256,
            naming=prepared.adapter.naming,
            network=prepared.adapter.network,
            max_error=prepared.adapter.max_error,
        )
        target.tracking.log_params(target.run_id, {"base_model": base.name} | origin.model_dump())
        with tempfile.TemporaryDirectory(prefix="atelier-") as name:
            scratch = Path(name)
            bundle_dir, bundle = fetch_or_export_bundle(base, target, self.options.cache_dir, report)
            folder = scratch / "adapter"
            folder.mkdir()
            weights = save_pairs(pairs, base.family.pipeline_class, folder)
            if prepared.preview is not None:
                (folder / names.PREVIEW_FILE).write_bytes(prepared.preview)
            manifest = write_adapter_manifest(
                weights, bundle, pairs, run_id=target.run_id, dataset_digest=None, imported_from=origin, style=prepared.style
            )
            report("comparing ONNX Runtime with diffusers")
            models = self._models(folder, pairs)
            finite, error = measure_parity(models, base.family, pairs, bundle_dir, bundle)
            if not finite:
                raise AdapterFileError(f"{prepared.source.shown}: the UNet's output with it is NaN or infinite")
            losses = dict[str, Any]()
            if self.options.held_out is not None:
                report("measuring the validation loss")
                losses = self.options.held_out.measure(models)._asdict()
                metrics = {name: losses[name] for name in ("validation_loss", "base_validation_loss")}
                target.tracking.log_metrics(target.run_id, metrics)
            evidence = Evidence(weights_sha256=manifest.weights_sha256, output_finite=finite, onnx_max_error=error, **losses)
            write_evidence(folder, evidence)
            version = log_and_register(folder, base, manifest, target, prepared.model)
        assert version is not None
        return Imported(prepared.model, version, target.run_id, manifest)

    def _models(self, folder: Path, pairs: Mapping[str, Any]) -> dict[str, Any]:
        """The UNet, and the text encoders that the adapter changes, as stock diffusers loads the file into them."""
        pipeline = self.base.load_pipeline()
        pipeline.load_lora_weights(folder)
        changed = {"unet"} | {name.partition(".")[0] for name in pairs}
        return {part: pipeline.components[part].eval() for part in changed}

    def _load_weights(self, part: str) -> dict[str, torch.Tensor]:
        if part == "unet":
            return dict(self.base.load_unet().named_parameters())
        (encoder,) = (one for one in self.base.family.text_encoders if one.part == part)
        return dict(self.base.load_text_encoder(encoder).named_parameters())


def _layer(name: str, module: Any, weights: Callable[[str], dict[str, torch.Tensor]]) -> Layer:
    inner, outer, kernel = layer_shape(module)
    part, _, layer = name.partition(".")
    return Layer(
        name, inner, outer, kernel, isinstance(module, torch.nn.Conv2d), lambda: weights(part)[f"{layer}.weight"].detach()
    )


def print_summary(prepared: Prepared, console: Console) -> None:
    """A table of what a file is, before anything is written."""
    file, adapter, style = prepared.file, prepared.adapter, prepared.style
    table = Table(title=prepared.source.shown, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    pairs = adapter.pairs.values()
    parts = Counter(name.partition(".")[0] for name in adapter.pairs)
    rows: list[tuple[str, str]] = [
        ("sha256", f"{file.sha256} (AutoV2 {autov2(file.sha256)})"),
        ("names", adapter.naming),
        ("network", adapter.network),
        ("layers", ", ".join(f"{count} of {part}" for part, count in parts.items())),
        ("rank", _counted(pair.rank for pair in pairs)),
        ("alpha", _counted(round(pair.alpha, 4) for pair in pairs)),
        ("precision", _counted(str(tensor.dtype).removeprefix("torch.") for tensor in file.tensors.values())),
        (
            "largest error",
            f"{adapter.max_error:.2%}, of {len(adapter.errors)} layers" if adapter.errors else "none",
        ),
        *describe(file.metadata),
        ("title", style.title or ""),
        ("trigger words", ", ".join(style.trigger_words)),
        ("author", style.author or ""),
        ("licence", style.licence or ""),
        (
            "recommended",
            ", ".join(f"{name} {value}" for name, value in style.recommended.model_dump(exclude_none=True).items()),
        ),
        ("preview", f"{len(prepared.preview) / 1024:.0f} KiB" if prepared.preview else ""),
        ("no preview", f"{THUMBNAIL_KEY}: {prepared.preview_problem}" if prepared.preview_problem else ""),
        ("becomes", f"a version of {prepared.model}"),
    ]
    for label, value in rows:
        if value:
            table.add_row(label, value)
    console.print(table)


def _counted(values: Any) -> str:
    """The values, the most frequent first, with how often each occurs where they differ."""
    counts = Counter(values).most_common(4)
    return str(counts[0][0]) if len(counts) == 1 else ", ".join(f"{value} ({count})" for value, count in counts)


def check_register(register: str, sources: list[Source]) -> None:
    """Raises OptionError where several files would become versions of one style without that being said."""
    if len(sources) > 1 and "{name}" not in register:
        raise OptionError(
            f"--register must contain {{name}} for {len(sources)} files, so that each becomes a model of its own; received "
            f"{register!r}"
        )
