"""A base model is exported once per machine: the cache serves every registry, and is replaced when it is damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from atelier_contracts import names
from atelier_contracts.manifests import BundleManifest
from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.export.bundle import source_digest
from atelier_trainer.export.publish import RunTarget, fetch_or_export_bundle
from atelier_trainer.tracking.mlflow_client import RegisteredBundle

pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy


class Registry:
    """Has the bundles that were registered, and counts what it is asked for."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.registered, self.downloads = folder, 0, 0

    def bundle_version(self, source: str) -> RegisteredBundle | None:
        if self.folder is None:
            return None
        manifest = BundleManifest.model_validate_json((self.folder / names.BUNDLE_FILE).read_text())
        return RegisteredBundle("small-base", "1", manifest.digest())

    def register_bundle(self, run_id: str, folder: Path, manifest: BundleManifest) -> str:
        self.folder, self.registered = folder, self.registered + 1
        return "small-base/1"

    def download(self, name: str, version: str, into: Path) -> Path:
        self.downloads += 1
        return Path(shutil.copytree(self.folder, into / "bundle"))


@pytest.fixture(scope="module")
def base(small_base: Path) -> BaseModel:
    return load_base_model(ModelOptions(pretrained_model_name_or_path=str(small_base)))


def fetch(base: BaseModel, registry: Registry, cache: Path) -> tuple[Path, list[str]]:
    reports: list[str] = []
    folder, manifest = fetch_or_export_bundle(base, RunTarget(registry, "run"), cache, reports.append)  # type: ignore[arg-type]
    assert set(manifest.files) == {file.name for file in folder.iterdir()} - {names.BUNDLE_FILE}
    return folder, reports


def test_the_cache_serves_another_registry_and_heals(base: BaseModel, bundle_cache: Path, tmp_path: Path) -> None:
    fetch(base, Registry(), bundle_cache)  # exports, unless an earlier test did
    registry = Registry()
    folder, reports = fetch(base, registry, bundle_cache)
    assert reports == []
    assert (registry.registered, registry.downloads) == (1, 0)
    assert folder == bundle_cache / "bundles" / source_digest(base)

    copy = tmp_path / "cache"
    shutil.copytree(folder, copy / "bundles" / folder.name)
    damaged = copy / "bundles" / folder.name / names.UNET_FILE
    damaged.write_bytes(b"damaged")
    healed, reports = fetch(base, registry, copy)
    assert reports == []
    assert (registry.registered, registry.downloads) == (1, 1)
    assert (healed / names.UNET_FILE).read_bytes() == (folder / names.UNET_FILE).read_bytes()
    assert sorted(file.name for file in (copy / "bundles").iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_the_registrys_bundle_wins_over_another_one_in_the_cache(base: BaseModel, bundle_cache: Path, tmp_path: Path) -> None:
    """As when two machines exported the same base model: adapters must refer to the bundle that infer can load."""
    cached, _ = fetch(base, Registry(), bundle_cache)
    copy, theirs = tmp_path / "cache", tmp_path / "theirs"
    shutil.copytree(cached, copy / "bundles" / cached.name)
    shutil.copytree(cached, theirs)
    manifest = BundleManifest.model_validate_json((theirs / names.BUNDLE_FILE).read_text())
    other = manifest.model_copy(update={"base": "the name that another machine gave it"})
    (theirs / names.BUNDLE_FILE).write_text(other.model_dump_json(indent=2))
    registry = Registry(theirs)
    folder, _ = fetch(base, registry, copy)
    assert (folder / names.BUNDLE_FILE).read_text() == (theirs / names.BUNDLE_FILE).read_text()
    assert (registry.registered, registry.downloads) == (0, 1)
    fetch(base, registry, copy)
    assert registry.downloads == 1


def test_a_bundle_is_registered_where_the_registered_one_is_unusable(
    base: BaseModel, bundle_cache: Path, tmp_path: Path
) -> None:
    """Its digest is what adapters refer to, so infer must find it."""
    cached, _ = fetch(base, Registry(), bundle_cache)
    copy = tmp_path / "cache"
    shutil.copytree(cached, copy / "bundles" / cached.name)
    registry = Registry(cached)
    registry.bundle_version = lambda source: RegisteredBundle("small-base", "1", "f" * 64)  # the tag of other files
    fetch(base, registry, copy)
    assert registry.registered == 1
