"""adapter.json and evidence.json, next to the weights that they describe."""

from __future__ import annotations

import subprocess
from pathlib import Path

from atelier_contracts import names
from atelier_contracts.manifests import (
    AdapterLayer,
    AdapterManifest,
    BundleManifest,
    Evidence,
    ImportSource,
    file_sha256,
)
from atelier_contracts.styles import Style

from atelier_trainer.adapter_formats.adapter_weights import AdapterWeights

GIT_TIMEOUT_S = 10


def write_adapter_manifest(
    weights: Path,
    bundle: BundleManifest,
    pairs: AdapterWeights,
    *,
    run_id: str,
    dataset_digest: str | None,
    imported_from: ImportSource | None = None,
    style: Style | None = None,
) -> AdapterManifest:
    """Describes a weights file, and the preview beside it if there is one, in adapter.json.

    Args:
        weights: the file.
        bundle: manifest of the bundle that it fits.
        pairs: what the file holds.
        run_id: of the MLflow run.
        dataset_digest: of the training images, if they are known.
        imported_from: the file of another tool, if it is one.
        style: what people should know of it.
    """
    preview = weights.parent / names.PREVIEW_FILE
    manifest = AdapterManifest(
        bundle_digest=bundle.digest(),
        weights_sha256=file_sha256(weights),
        layers={name: AdapterLayer(rank=pair.rank, alpha=pair.alpha) for name, pair in sorted(pairs.items())},
        run_id=run_id,
        dataset_digest=dataset_digest,
        imported_from=imported_from,
        style=style or Style(),
        preview_sha256=file_sha256(preview) if preview.exists() else None,
        git_revision=git_revision(),
    )
    (weights.parent / names.ADAPTER_FILE).write_text(manifest.model_dump_json(indent=2))
    return manifest


def write_evidence(folder: Path, evidence: Evidence) -> None:
    (folder / names.EVIDENCE_FILE).write_text(evidence.model_dump_json(indent=2))


def git_revision() -> str | None:
    """Commit of this package's source tree, with `-dirty` where files differ from it; None outside a checkout."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
