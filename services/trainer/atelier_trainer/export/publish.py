"""Publishes a finished training: manifest, evidence and parity of its weights, then the models in MLflow and on the hub.

It reads the run's folder alone, so that `sync` can do it long after the training.
"""

from __future__ import annotations

import fcntl
import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest, Evidence, file_sha256

from atelier_trainer.adapter_formats.preview import make_preview
from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.export import adapter, hub
from atelier_trainer.export.bundle import export_bundle, source_digest
from atelier_trainer.export.manifests import write_adapter_manifest, write_evidence
from atelier_trainer.export.merged_unet import export_merged
from atelier_trainer.export.outcome import Outcome
from atelier_trainer.export.parity import measure_parity
from atelier_trainer.tracking.mlflow_client import RegisteredBundle, TrackingClient

Report = Callable[[str], None]


@dataclass(frozen=True)
class RunTarget:
    """The MLflow run that gets the adapter."""

    tracking: TrackingClient
    run_id: str


def publish(folder: Path, outcome: Outcome, target: RunTarget, report: Report) -> Outcome:
    """Describes the folder's weights, compares ONNX Runtime with torch, logs and registers them. Idempotent.

    Returns:
        The outcome, which is also written to the folder; `version` is None where --register was not given.

    Raises:
        TrackingError: MLflow did not answer; the next call continues.
        ExportError: ONNX Runtime and torch differ.
    """
    options = TrainOptions.from_flags(**outcome.flags)
    cache_dir = Path(options.data.cache_dir).expanduser()
    base = load_base_model(options.model, cache_dir)
    with tempfile.TemporaryDirectory(prefix="atelier-") as scratch:
        bundle_dir, bundle = fetch_or_export_bundle(base, target, cache_dir, report)
        unet = base.load_unet()
        adapter.inject_lora(unet, **options.model.lora)
        adapter.set_lora_weights(unet, adapter.load_weights(folder))
        pairs = adapter.lora_pairs(unet)
        if (picture := target.tracking.validation_image(target.run_id, outcome.losses.step)) is not None:
            (folder / names.PREVIEW_FILE).write_bytes(make_preview(picture))
        manifest = write_adapter_manifest(
            folder / names.WEIGHTS_FILE,
            bundle,
            pairs,
            run_id=target.run_id,
            dataset_digest=outcome.dataset_digest,
            style=options.style.to_style(),
        )
        parity = measure_parity({"unet": unet}, base.family, pairs, bundle_dir, bundle)
        write_evidence(folder, _evidence(outcome, manifest, parity))
        files = _copy_adapter(folder, Path(scratch) / "adapter")
        version = log_and_register(files, base, manifest, target, options.output.register)
        if options.output.export == "merged":
            report("exporting the merged UNet to ONNX")
            target.tracking.log_merged(target.run_id, export_merged(unet, base, Path(scratch)))
        if options.output.push_to_hub:
            name = options.output.hub_model_id or folder.resolve().name
            images = target.tracking.download_images(target.run_id, files)
            hub.write_model_card(files, name.rpartition("/")[2], manifest, base, images)
            report(f"uploaded to {hub.push(files, name)}")
    published = replace(outcome, version=version, published=True)
    published.write(folder)
    return published


def log_and_register(
    files: Path, base: BaseModel, manifest: AdapterManifest, target: RunTarget, register: str | None
) -> int | None:
    """Logs a folder of an adapter's files as an MLflow model; returns its version of the registered model, if one is given."""
    stored_base = base.name if base.revision is not None else f"bundle:{manifest.bundle_digest}"
    model_id = target.tracking.log_adapter(target.run_id, files, stored_base)
    return None if register is None else target.tracking.register_adapter(register, target.run_id, model_id, manifest)


def fetch_or_export_bundle(base: BaseModel, target: RunTarget, cache_dir: Path, report: Report) -> tuple[Path, BundleManifest]:
    """The bundle's folder and manifest: the registered one, from the cache where that has it, or else one that is exported.

    Where the registry has none, the cached or exported one is registered. Bundles of one base model that two machines exported
    may differ, so the cached one counts only if it is the registered one.

    Args:
        base: model that the bundle is of.
        target: registers it where the registry does not have it.
        cache_dir: folder of this machine's bundles, by source digest.
        report: gets a line before an export.
    """
    source = source_digest(base)
    home, registered = cache_dir / "bundles" / source, target.tracking.bundle_version(source)
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        manifest = _cached_manifest(home, registered.digest if registered else None)
        if manifest is None:
            with tempfile.TemporaryDirectory(prefix="incoming-", dir=home.parent) as name:
                folder, manifest = _download_or_export(base, target, registered, Path(name), source, report)
                shutil.rmtree(home, ignore_errors=True)
                folder.rename(home)
    if registered is None or registered.digest != manifest.digest():
        target.tracking.register_bundle(target.run_id, home, manifest)
    return home, manifest


def _download_or_export(
    base: BaseModel, target: RunTarget, registered: RegisteredBundle | None, scratch: Path, source: str, report: Report
) -> tuple[Path, BundleManifest]:
    if registered is not None:
        downloaded = target.tracking.download(registered.name, registered.version, scratch)
        manifest_file = next(downloaded.rglob(names.BUNDLE_FILE), None)
        if manifest_file is not None:
            return manifest_file.parent, BundleManifest.model_validate_json(manifest_file.read_text())
    report(f"exporting the base model {base.name!r} to ONNX; this happens once per base model")
    folder = scratch / "bundle"
    folder.mkdir()
    manifest = export_bundle(base.load_pipeline(), base.family, folder, base=base.name, revision=base.revision, source=source)
    return folder, manifest


def _cached_manifest(home: Path, digest: str | None) -> BundleManifest | None:
    """Of a bundle in the cache that has this digest, if one is given, and whose files are all as it says; None otherwise."""
    try:
        manifest = BundleManifest.model_validate_json((home / names.BUNDLE_FILE).read_text())
        intact = all(file_sha256(home / name) == sha256 for name, sha256 in manifest.files.items())
    except (OSError, ValueError):
        return None
    return manifest if intact and digest in (None, manifest.digest()) else None


def _evidence(outcome: Outcome, manifest: AdapterManifest, parity: tuple[bool, float]) -> Evidence:
    finite, error = parity
    return Evidence(
        weights_sha256=manifest.weights_sha256,
        output_finite=finite,
        onnx_max_error=error if math.isfinite(error) else 1e9,
        validation_loss=outcome.losses.validation_loss,
        base_validation_loss=outcome.losses.base_validation_loss,
        validation_digest=outcome.validation_digest,
        validation_images=outcome.validation_images,
    )


def _copy_adapter(folder: Path, copy: Path) -> Path:
    """The adapter's own files in a folder of their own: the run's folder also holds journal and checkpoints."""
    copy.mkdir()
    for name in (names.WEIGHTS_FILE, names.ADAPTER_FILE, names.EVIDENCE_FILE, names.PREVIEW_FILE):
        if name != names.PREVIEW_FILE or (folder / name).exists():
            (copy / name).write_bytes((folder / name).read_bytes())
    return copy
