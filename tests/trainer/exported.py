"""The bundle of a base model, exported once for all tests of a session."""

from __future__ import annotations

from pathlib import Path

from atelier_contracts.manifests import BundleManifest
from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.export.publish import RunTarget, fetch_or_export_bundle


class NoRegistry:
    """Has no bundle and keeps none."""

    def bundle_version(self, source: str) -> None:
        return None

    def register_bundle(self, run_id: str, folder: Path, manifest: BundleManifest) -> None:
        pass


def exported_bundle(base: BaseModel, cache: Path) -> tuple[Path, BundleManifest]:
    """Its folder and manifest; the folder must not be changed."""
    return fetch_or_export_bundle(base, RunTarget(NoRegistry(), "run"), cache, lambda _: None)  # type: ignore[arg-type]
