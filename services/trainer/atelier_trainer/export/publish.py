"""What a finished training hands over: manifest, evidence and parity for its weights, then the models in MLflow and on the hub.

It works from the run's folder alone, so that `sync` can do it long after the training.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest, Evidence
from safetensors.torch import load_file

from atelier_trainer.base_model import Base, load_base
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.errors import OptionError
from atelier_trainer.export import adapter, hub
from atelier_trainer.export.bundle import export_bundle, lora_layers
from atelier_trainer.export.export_merged import export_merged
from atelier_trainer.tracking.mlflow_runs import Tracking, fetch_or_export
from atelier_trainer.tracking.runs import write_json

OUTCOME_FILE, RECIPE_FILE = "outcome.json", "recipe.yaml"


@dataclass(frozen=True)
class Outcome:
    """outcome.json: what a training measured, and what is to be done with its weights.

    Attributes:
        options: all of TrainOptions.
        dataset_digest: of the images that were trained on.
        validation_digest: of what the validation losses were measured on.
        validation_images: images held out.
        validation_loss: of the weights beside this file.
        base_validation_loss: without them.
        version: of the registered model, once there is one.
        published: whether all of it is in MLflow.
    """

    options: dict[str, Any]
    dataset_digest: str
    validation_digest: str
    validation_images: int
    validation_loss: float
    base_validation_loss: float
    version: int | None = None
    published: bool = False

    def write(self, folder: Path) -> None:
        """Written whole or not at all."""
        write_json(folder / OUTCOME_FILE, asdict(self))


def read_outcome(folder: Path) -> Outcome | None:
    """The folder's outcome; None where its training did not end.

    Raises:
        OptionError: it is there and cannot be read.
    """
    file = folder / OUTCOME_FILE
    if not file.exists():
        return None
    try:
        return Outcome(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise OptionError(f"{str(file)!r} is not an outcome: {error}") from error


def lora_of(options: TrainOptions) -> dict[str, Any]:
    """Arguments of `adapter.inject`."""
    return {
        "rank": options.rank,
        "alpha": options.lora_alpha,
        "targets": options.targets,
        "dropout": options.lora_dropout,
        "rslora": options.use_rslora,
    }


def publish(folder: Path, outcome: Outcome, tracking: Tracking, run_id: str, say: Callable[[str], None]) -> int | None:
    """Describes the folder's weights, measures them against ONNX Runtime, logs and registers them. Twice is once.

    Returns:
        The registered version; None where none was asked for.

    Raises:
        TrackingError: MLflow did not answer; nothing is lost, and the next call goes on.
        ExportError: ONNX and torch differ.
    """
    options = TrainOptions(**outcome.options)
    base = load_base(options.pretrained_model_name_or_path, options.revision, options.base_name, options.variant)
    with tempfile.TemporaryDirectory(prefix="atelier-") as scratch:
        bundle_dir, bundle = fetch_or_export(
            tracking,
            base.source,
            Path(scratch),
            lambda out: _export(base, out, say),
            lambda exported, manifest: tracking.register_bundle(run_id, exported, manifest),
        )
        unet = base.unet()
        targets = tuple(lora_layers(unet, options.targets))
        adapter.inject(unet, **lora_of(options))
        weights = folder / names.WEIGHTS_FILE
        adapter.put_weights(unet, {name.removeprefix("unet."): value for name, value in load_file(weights).items()})
        manifest = adapter.describe(
            weights, bundle, rank=options.rank, alpha=adapter.scale(unet) * options.rank, targets=targets, run_id=run_id,
            dataset_digest=outcome.dataset_digest,
        )  # fmt: skip
        finite, error = adapter.measure_parity(unet, bundle_dir, bundle)
        evidence = Evidence(
            weights_sha256=manifest.weights_sha256,
            output_finite=finite,
            onnx_max_error=error if math.isfinite(error) else 1e9,
            validation_loss=outcome.validation_loss,
            base_validation_loss=outcome.base_validation_loss,
            validation_digest=outcome.validation_digest,
            validation_images=outcome.validation_images,
        )
        adapter.write_evidence(folder, evidence)
        parts = [folder / name for name in (names.WEIGHTS_FILE, names.ADAPTER_FILE, names.EVIDENCE_FILE)]
        handed = Path(scratch) / "handed"  # the folder itself also holds the journal and checkpoints
        handed.mkdir()
        for part in parts:
            (handed / part.name).write_bytes(part.read_bytes())
        named = base.name if base.revision is not None else f"bundle:{bundle.digest()}"
        version = tracking.log_adapter(run_id, handed, named, manifest, options.register)
        if options.export == "merged":
            say("exporting the merged UNet to ONNX")
            tracking.log_merged(run_id, export_merged(unet, base, Path(scratch)))
        if options.push_to_hub:
            say(f"uploaded to {hub.push(handed, options.hub_model_id or folder.resolve().name)}")
    replace(outcome, version=version, published=True).write(folder)
    return version


def _export(base: Base, out: Path, say: Callable[[str], None]) -> BundleManifest:
    say(f"exporting the base {base.name!r} to ONNX; this happens once per base")
    return export_bundle(base.pipeline(), out, base=base.name, revision=base.revision, source=base.source)
