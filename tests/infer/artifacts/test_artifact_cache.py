"""Cached files match their manifests or are absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from atelier_infer.artifacts import artifact_cache as module
from atelier_infer.artifacts.artifact_cache import ArtifactCache
from atelier_infer.errors import AdapterError, BundleError, BundleMismatchError, CacheError, CorruptFileError, TrackingError

from ..fake_store import FakeStore
from ..tiny_bundle import build_bundle, write_manifest


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def artifacts(store: FakeStore, cache: Path) -> ArtifactCache:
    return ArtifactCache(store, cache)


@pytest.fixture
def own_bundle(tmp_path: Path, store: FakeStore) -> SimpleNamespace:
    """A bundle that a test may damage: publish again under any digest with `publish`."""
    folder = tmp_path / "own"
    manifest = build_bundle(folder, seed=5)
    store.publish_bundle(folder, manifest.digest())
    return SimpleNamespace(folder=folder, digest=manifest.digest())


def left_behind(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


def test_a_bundle_is_fetched_once(
    artifacts: ArtifactCache, store: FakeStore, bundle: tuple[Path, BundleManifest], cache: Path
) -> None:
    digest = bundle[1].digest()
    home = artifacts.bundle(digest)
    assert artifacts.bundle(digest) == home == cache / "bundles" / digest
    assert store.fetched == [f"bundle {digest}"]
    assert {path.name for path in home.iterdir()} == {names.BUNDLE_FILE, *bundle[1].files}
    assert [path.name for path in cache.iterdir()] == ["bundles"]  # nothing of the download stays


def test_an_adapter_is_fetched_once_whatever_its_number(
    artifacts: ArtifactCache, store: FakeStore, adapter: tuple[Path, AdapterManifest]
) -> None:
    first, second = (artifacts.adapter(store.publish_adapter(adapter[0])) for _ in range(2))
    assert first == second
    assert (first.folder.name, first.manifest) == (adapter[1].digest(), adapter[1])
    assert store.fetched == ["version 1"]


def test_a_damaged_copy_is_dropped_and_fetched_again(
    artifacts: ArtifactCache, store: FakeStore, adapter: tuple[Path, AdapterManifest], own_bundle: SimpleNamespace
) -> None:
    version = store.publish_adapter(adapter[0])
    for find, file in (
        (lambda: artifacts.adapter(version).folder, names.WEIGHTS_FILE),
        (lambda: artifacts.bundle(own_bundle.digest), names.UNET_FILE),
    ):
        home = find()
        good = (home / file).read_bytes()
        (home / file).write_bytes(good[:-1] + b"!")
        assert (find() / file).read_bytes() == good
        (home / file).unlink()
        assert (find() / file).read_bytes() == good
    assert len(store.fetched) == 6


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_download_is_refused_and_leaves_nothing(
    artifacts: ArtifactCache, own_bundle: SimpleNamespace, cache: Path, damage: str
) -> None:
    file = own_bundle.folder / (names.UNET_FILE + ".data")
    file.unlink() if damage == "missing" else file.write_bytes(b"x")
    with pytest.raises(CorruptFileError, match=r"unet\.onnx\.data"):
        artifacts.bundle(own_bundle.digest)
    assert left_behind(cache) == []


def test_damaged_weights_are_refused(
    artifacts: ArtifactCache, store: FakeStore, adapter: tuple[Path, AdapterManifest], cache: Path
) -> None:
    (adapter[0] / names.WEIGHTS_FILE).write_bytes(b"x")
    with pytest.raises(CorruptFileError, match="must have sha256"):
        artifacts.adapter(store.publish_adapter(adapter[0]))
    assert left_behind(cache) == []


@pytest.mark.parametrize(("number", "message"), [(1, "has format 1, which"), (3, "not an adapter manifest")])
def test_a_manifest_of_another_format_is_refused(
    artifacts: ArtifactCache, store: FakeStore, adapter: tuple[Path, AdapterManifest], number: int, message: str
) -> None:
    file = adapter[0] / names.ADAPTER_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": number}))
    with pytest.raises(AdapterError, match=message):
        artifacts.adapter(store.publish_adapter(adapter[0]))


def test_another_bundle_under_the_digest_is_refused(
    artifacts: ArtifactCache, store: FakeStore, bundle: tuple[Path, BundleManifest]
) -> None:
    store.publish_bundle(bundle[0], "f" * 64)
    with pytest.raises(BundleMismatchError) as caught:
        artifacts.bundle("f" * 64)
    assert "f" * 64 in str(caught.value)
    assert bundle[1].digest() in str(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (lambda files: files | {"../../evil": "0" * 64}, r"files\.`\.\./\.\./evil`"),
        (lambda files: files | {"/etc/passwd": "0" * 64}, r"files\./etc/passwd"),
    ],
)
def test_lists_of_files_that_are_refused(
    artifacts: ArtifactCache, store: FakeStore, own_bundle: SimpleNamespace, files: Callable[..., Any], message: str
) -> None:
    manifest = json.loads((own_bundle.folder / names.BUNDLE_FILE).read_text())
    manifest["files"] = files(manifest["files"])
    (own_bundle.folder / names.BUNDLE_FILE).write_text(json.dumps(manifest))
    store.publish_bundle(own_bundle.folder, "f" * 64)
    with pytest.raises(BundleError, match=message):
        artifacts.bundle("f" * 64)


def test_a_list_that_lacks_a_graph_is_refused(artifacts: ArtifactCache, store: FakeStore, own_bundle: SimpleNamespace) -> None:
    files = json.loads((own_bundle.folder / names.BUNDLE_FILE).read_text())["files"]
    del files[names.UNET_FILE]
    lacking = write_manifest(own_bundle.folder, files=files)
    store.publish_bundle(own_bundle.folder, lacking.digest())
    with pytest.raises(BundleError, match=r"does not list unet\.onnx"):
        artifacts.bundle(lacking.digest())


def test_files_that_no_manifest_lists_are_left_out(artifacts: ArtifactCache, own_bundle: SimpleNamespace) -> None:
    (own_bundle.folder / "MLmodel").write_text("x")
    assert not (artifacts.bundle(own_bundle.digest) / "MLmodel").exists()


@pytest.mark.parametrize("count", [0, 2])
def test_there_must_be_one_manifest(artifacts: ArtifactCache, own_bundle: SimpleNamespace, count: int) -> None:
    if count:
        shutil.copytree(own_bundle.folder, own_bundle.folder / "again")
    else:
        (own_bundle.folder / names.BUNDLE_FILE).unlink()
    with pytest.raises(BundleError, match=f"must hold one bundle.json; received {count}"):
        artifacts.bundle(own_bundle.digest)


def test_an_outage_leaves_nothing(
    artifacts: ArtifactCache, store: FakeStore, bundle: tuple[Path, BundleManifest], cache: Path
) -> None:
    store.down = True
    with pytest.raises(TrackingError):
        artifacts.bundle(bundle[1].digest())
    assert left_behind(cache) == []


def test_a_cache_that_cannot_be_used(store: FakeStore, bundle: tuple[Path, BundleManifest], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cache_dir"):
        ArtifactCache(store, tmp_path / "file").bundle(bundle[1].digest())


def test_abandoned_downloads_are_removed(artifacts: ArtifactCache, cache: Path) -> None:
    for name, age_s in (("incoming-old", 2 * module.ABANDONED_AFTER_S), ("incoming-new", 0)):
        folder = cache / name
        folder.mkdir()
        (folder / "part").write_text("x")
        stamp = folder.stat().st_mtime - age_s
        os.utime(folder, (stamp, stamp))
    artifacts.remove_abandoned_downloads()
    assert [path.name for path in cache.iterdir()] == ["incoming-new"]
