"""Publishes a finished training: manifest, evidence and parity of its weights, then the models in MLflow and on the hub.

It reads the run's folder alone, so that `sync` can do it long after the training.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest, Evidence

from atelier_trainer.base_model import BaseModel, load_base_model
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.export import adapter, hub
from atelier_trainer.export.bundle import export_bundle, source_digest
from atelier_trainer.export.manifests import write_adapter_manifest, write_evidence
from atelier_trainer.export.merged_unet import export_merged
from atelier_trainer.export.outcome import Outcome
from atelier_trainer.export.parity import measure_parity
from atelier_trainer.tracking.mlflow_client import TrackingClient

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
    base = load_base_model(options.model)
    with tempfile.TemporaryDirectory(prefix="atelier-") as scratch:
        bundle_dir, bundle = fetch_or_export_bundle(base, target, Path(scratch), report)
        unet = base.load_unet()
        adapter.inject_lora(unet, **options.model.lora)
        adapter.set_lora_weights(unet, adapter.load_weights(folder))
        pairs = adapter.lora_pairs(unet)
        manifest = write_adapter_manifest(
            folder / names.WEIGHTS_FILE,
            bundle,
            pairs,
            run_id=target.run_id,
            dataset_digest=outcome.dataset_digest,
        )
        parity = measure_parity({"unet": unet}, base.family, pairs, bundle_dir, bundle)
        write_evidence(folder, _evidence(outcome, manifest, parity))
        files = _copy_adapter(folder, Path(scratch) / "adapter")
        stored_base = base.name if base.revision is not None else f"bundle:{bundle.digest()}"
        model_id, version = target.tracking.log_adapter(target.run_id, files, stored_base), None
        if options.output.register is not None:
            version = target.tracking.register_adapter(options.output.register, target.run_id, model_id, manifest)
        if options.output.export == "merged":
            report("exporting the merged UNet to ONNX")
            target.tracking.log_merged(target.run_id, export_merged(unet, base, Path(scratch)))
        if options.output.push_to_hub:
            report(f"uploaded to {hub.push(files, options.output.hub_model_id or folder.resolve().name)}")
    published = replace(outcome, version=version, published=True)
    published.write(folder)
    return published


def fetch_or_export_bundle(base: BaseModel, target: RunTarget, scratch: Path, report: Report) -> tuple[Path, BundleManifest]:
    """The bundle's folder and manifest: downloaded where the registry has it, otherwise exported and registered."""
    source = source_digest(base.folder, base.family)
    registered = target.tracking.bundle_version(source)
    if registered is not None:
        downloaded = target.tracking.download(*registered, scratch)
        manifest_file = next(downloaded.rglob(names.BUNDLE_FILE), None)
        if manifest_file is not None:
            return manifest_file.parent, BundleManifest.model_validate_json(manifest_file.read_text())
    report(f"exporting the base model {base.name!r} to ONNX; this happens once per base model")
    folder = Path(tempfile.mkdtemp(dir=scratch))
    manifest = export_bundle(base.load_pipeline(), base.family, folder, base=base.name, revision=base.revision, source=source)
    target.tracking.register_bundle(target.run_id, folder, manifest)
    return folder, manifest


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
    """The adapter's three files in a folder of their own: the run's folder also holds journal and checkpoints."""
    copy.mkdir()
    for name in (names.WEIGHTS_FILE, names.ADAPTER_FILE, names.EVIDENCE_FILE):
        (copy / name).write_bytes((folder / name).read_bytes())
    return copy
