"""`export`: a registered version becomes a LoRA file of another tool."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest, file_sha256, outdated_format
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from atelier_trainer.adapter_formats.adapter_weights import LoraPair
from atelier_trainer.adapter_formats.layer_names import LayerNames
from atelier_trainer.adapter_formats.write_adapter import Format, describe_adapter, write_adapter
from atelier_trainer.errors import AdapterFileError, OptionError
from atelier_trainer.families import FAMILIES
from atelier_trainer.tracking.mlflow_client import TrackingClient

REFERENCE = re.compile(r"(?P<model>[^:@]+)(?::(?P<version>[1-9]\d*)|@(?P<alias>[^:@]+))")


@dataclass(frozen=True)
class RegisteredAdapter:
    """A version as the registry has it."""

    model: str
    version: int
    manifest: AdapterManifest
    bundle: BundleManifest
    pairs: dict[str, LoraPair]
    preview: bytes | None = None


@dataclass(frozen=True)
class ExportedFile:
    """A written file, with the hash that Civitai shows."""

    file: Path
    sha256: str
    model: str
    version: int


def export_adapter(reference: str, format: Format, file: Path, tracking: TrackingClient) -> ExportedFile:
    """Writes a version as a file of another tool.

    Args:
        reference: `model:version` or `model@alias`.
        format: whose names the keys get.
        file: to write.
        tracking: the registry.

    Raises:
        OptionError: the reference is none, or the file's folder does not exist.
        AdapterFileError: the version is no adapter, or its files are damaged.
        TrackingError: MLflow did not answer, or has no such version.
    """
    if not file.parent.is_dir():
        raise OptionError(f"--out: there is no folder {str(file.parent)!r}")
    adapter = read_registered(reference, tracking)
    family = FAMILIES[adapter.bundle.family]
    layer_names = LayerNames(family, adapter.bundle.lora_layers())
    name = f"{adapter.model}-{adapter.version}"
    metadata = describe_adapter(adapter.pairs, family, adapter.bundle, adapter.manifest.style, name, adapter.preview)
    write_adapter(adapter.pairs, layer_names, format, metadata, file)
    return ExportedFile(file, file_sha256(file), adapter.model, adapter.version)


def read_registered(reference: str, tracking: TrackingClient) -> RegisteredAdapter:
    """Downloads a version and checks its weights' sha256.

    Raises:
        OptionError, AdapterFileError, TrackingError: see `export_adapter`.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise OptionError(f"a version is MODEL:VERSION or MODEL@ALIAS; received {reference!r}")
    model = match["model"]
    version = int(match["version"]) if match["version"] else tracking.alias_version(model, match["alias"])
    with tempfile.TemporaryDirectory(prefix="atelier-") as scratch:
        folder = tracking.download(model, str(version), Path(scratch)) / names.ADAPTER_FOLDER
        where = f"version {version} of {model}"
        manifest = _read_manifest(where, folder / names.ADAPTER_FILE)
        weights = folder / names.WEIGHTS_FILE
        if not weights.is_file() or file_sha256(weights) != manifest.weights_sha256:
            raise AdapterFileError(f"{where}: {names.WEIGHTS_FILE} is not the file that {names.ADAPTER_FILE} describes")
        preview = _read_preview(where, folder, manifest)
        try:
            tensors = load_file(weights)
            pairs = {
                layer: LoraPair(tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"], one.alpha)
                for layer, one in manifest.layers.items()
            }
        except (SafetensorError, KeyError) as error:
            raise AdapterFileError(f"{where}: {names.WEIGHTS_FILE} lacks {error}") from error
        bundle = BundleManifest.model_validate_json(tracking.bundle_manifest(manifest.bundle_digest, Path(scratch)))
    return RegisteredAdapter(model, version, manifest, bundle, pairs, preview)


def _read_preview(where: str, folder: Path, manifest: AdapterManifest) -> bytes | None:
    if manifest.preview_sha256 is None:
        return None
    file = folder / names.PREVIEW_FILE
    if not file.is_file() or file_sha256(file) != manifest.preview_sha256:
        raise AdapterFileError(f"{where}: {names.PREVIEW_FILE} is not the file that {names.ADAPTER_FILE} describes")
    return file.read_bytes()


def _read_manifest(where: str, file: Path) -> AdapterManifest:
    if not file.is_file():
        raise AdapterFileError(f"{where} is no adapter: it has no {names.ADAPTER_FILE}")
    text = file.read_text()
    try:
        return AdapterManifest.model_validate_json(text)
    except ValidationError as error:
        reason = outdated_format(text) or f"it is not an adapter manifest: {error.error_count()} faults"
        raise AdapterFileError(f"{where}: {names.ADAPTER_FILE}: {reason}") from error
