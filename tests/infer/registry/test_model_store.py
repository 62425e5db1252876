"""The registry as this service sees it: the fake and a real MLflow server pass the same tests."""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
import sqlite3
from pathlib import Path

import pytest
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from atelier_contracts.styles import RecordedEdits, StyleEdits
from atelier_infer.artifacts.artifact_cache import ArtifactCache
from atelier_infer.errors import (
    AdapterError,
    ArtifactSourceError,
    BundleMissingError,
    NotAnAdapterError,
    TrackingError,
    UnknownVersionError,
)
from atelier_infer.registry.mlflow_store import MlflowStore
from atelier_infer.registry.model_store import BundleVersion

from ...servers import MlflowServer, free_port
from ..fake_store import FakeStore
from ..mlflow_publisher import MlflowPublisher


@pytest.fixture(params=["fake", "mlflow"])
def registry(request: pytest.FixtureRequest) -> tuple[FakeStore | MlflowPublisher, FakeStore | MlflowStore]:
    """A publisher, and the store that reads what it published."""
    if request.param == "fake":
        fake = FakeStore()
        return fake, fake
    url = request.getfixturevalue("mlflow_server").uri
    publisher = MlflowPublisher(url)
    return publisher, MlflowStore(tracking_uri=url, model=publisher.model)


def test_a_model_that_does_not_exist_has_no_aliases_and_no_versions(
    registry: tuple[FakeStore | MlflowPublisher, FakeStore | MlflowStore],
) -> None:
    _, store = registry
    assert store.registered_model().aliases == {}
    assert store.registered_model().generation == ""
    assert store.versions() == []


def test_aliases_move(
    registry: tuple[FakeStore | MlflowPublisher, FakeStore | MlflowStore], adapter: tuple[Path, AdapterManifest]
) -> None:
    publisher, store = registry
    for _ in range(2):
        publisher.publish_adapter(adapter[0])
    assert store.registered_model().aliases == {}
    generation = store.registered_model().generation
    assert generation
    publisher.set_alias("champion", 1)
    publisher.set_alias("rival", 1)
    publisher.set_alias("champion", 2)
    assert store.registered_model().aliases == {"champion": 2, "rival": 1}
    publisher.delete_alias("rival")
    assert store.registered_model().aliases == {"champion": 2}
    assert store.registered_model().generation == generation


def test_only_adapters_are_versions(
    registry: tuple[FakeStore | MlflowPublisher, FakeStore | MlflowStore], adapter: tuple[Path, AdapterManifest]
) -> None:
    publisher, store = registry
    publisher.publish_adapter(adapter[0])
    publisher.publish_adapter(adapter[0], kind="merged")
    publisher.publish_adapter(adapter[0])
    assert [entry.number for entry in store.versions()] == [1, 3]
    assert all(entry.created_at.tzinfo for entry in store.versions())
    with pytest.raises(NotAnAdapterError, match="merged"):
        store.adapter_manifest(2)


def test_manifest_and_weights_of_an_adapter(
    registry: tuple[FakeStore | MlflowPublisher, FakeStore | MlflowStore], adapter: tuple[Path, AdapterManifest], tmp_path: Path
) -> None:
    publisher, store = registry
    number = publisher.publish_adapter(adapter[0])
    assert store.adapter_manifest(number) == (adapter[0] / names.ADAPTER_FILE).read_bytes()
    into = tmp_path / "into"
    into.mkdir()
    weights = store.fetch_weights(number, into)
    assert weights.read_bytes() == (adapter[0] / names.WEIGHTS_FILE).read_bytes()
    assert [path for path in into.rglob("*") if path.is_file()] == [weights]  # nothing else is downloaded


def test_the_preview_of_an_adapter(
    registry: tuple[FakeStore | MlflowPublisher, FakeStore | MlflowStore], adapter: tuple[Path, AdapterManifest], tmp_path: Path
) -> None:
    publisher, store = registry
    for folder in ("without", "with"):
        (tmp_path / folder).mkdir()
    assert store.fetch_preview(publisher.publish_adapter(adapter[0]), tmp_path / "without") is None
    (adapter[0] / names.PREVIEW_FILE).write_bytes(b"a picture")
    preview = store.fetch_preview(publisher.publish_adapter(adapter[0]), tmp_path / "with")
    assert preview.read_bytes() == b"a picture"


def test_the_style_tag_comes_with_the_registered_model(
    registry: tuple[FakeStore | MlflowPublisher, FakeStore | MlflowStore], adapter: tuple[Path, AdapterManifest]
) -> None:
    publisher, store = registry
    publisher.publish_adapter(adapter[0])
    assert store.registered_model().style_tag is None
    publisher.edit_style(17, title="Brush")
    tag = store.registered_model().style_tag
    assert RecordedEdits.model_validate_json(tag) == RecordedEdits(decision=17, edits=StyleEdits(title="Brush"))


def test_what_does_not_exist(
    registry: tuple[FakeStore | MlflowPublisher, FakeStore | MlflowStore], adapter: tuple[Path, AdapterManifest], tmp_path: Path
) -> None:
    publisher, store = registry
    publisher.publish_adapter(adapter[0])
    with pytest.raises(UnknownVersionError, match="no version 9"):
        store.adapter_manifest(9)
    with pytest.raises(BundleMissingError, match="0" * 64):
        store.bundles("0" * 64)
    (tmp_path / "empty").mkdir()
    number = publisher.publish_adapter(tmp_path / "empty")
    with pytest.raises(AdapterError, match=r"adapter\.json"):
        store.adapter_manifest(number)


def test_a_bundle_is_found_by_its_digest_whatever_its_model(
    registry: tuple[FakeStore | MlflowPublisher, FakeStore | MlflowStore], bundle: tuple[Path, BundleManifest], tmp_path: Path
) -> None:
    publisher, store = registry
    folder, manifest = bundle
    damaged = tmp_path / "older"
    shutil.copytree(folder, damaged)
    (damaged / names.UNET_FILE).write_bytes(b"x")
    publisher.publish_bundle(damaged, manifest.digest())
    publisher.publish_bundle(folder, manifest.digest())  # whichever holds it
    publisher.publish_bundle(damaged, manifest.digest())  # a later wrong one keeps nobody from starting
    cache = tmp_path / "cache"
    cache.mkdir()
    home = ArtifactCache(store, cache).bundle(manifest.digest())
    assert (home / names.UNET_FILE).read_bytes() == (folder / names.UNET_FILE).read_bytes()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.mark.parametrize("kind", ["fake", "mlflow"])
def test_an_outage_is_one_kind_of_error(kind: str, tmp_path: Path, impatient: None) -> None:
    store = FakeStore(down=True) if kind == "fake" else MlflowStore(tracking_uri=f"http://127.0.0.1:{free_port()}", model="m")
    calls = (
        store.registered_model,
        store.versions,
        lambda: store.adapter_manifest(1),
        lambda: store.fetch_weights(1, tmp_path),
        lambda: store.promoted_digest(1),
        lambda: store.bundles("0" * 64),
        lambda: store.fetch_bundle(BundleVersion("base", 1), tmp_path),
    )
    for call in calls:
        with pytest.raises(TrackingError):
            call()


def test_what_mlflows_own_flavor_logs_is_read(
    mlflow_server: MlflowServer, adapter: tuple[Path, AdapterManifest], tmp_path: Path
) -> None:
    """The way the trainer logs and registers: a logged model, `models:/m-…` as the version's source."""
    import mlflow

    url = mlflow_server.uri
    mlflow.set_tracking_uri(url)
    publisher = MlflowPublisher(url)
    publisher.client.create_registered_model(publisher.model)
    with mlflow.start_run() as run:
        info = mlflow.diffusers.log_model(adapter_path=str(adapter[0]), base_model="./tiny", name="adapter")
    tags = {names.TAG_KIND: names.KIND_ADAPTER}
    version = publisher.client.create_model_version(
        publisher.model, info.model_uri, run.info.run_id, tags=tags, model_id=info.model_id
    )
    mlflow.set_tracking_uri("http://127.0.0.1:1")  # the store must not lean on MLflow's global address
    store = MlflowStore(tracking_uri=url, model=publisher.model)
    cache = tmp_path / "cache"
    cache.mkdir()
    home = ArtifactCache(store, cache).adapter(int(version.version)).folder
    assert {path.name for path in home.iterdir()} == {names.WEIGHTS_FILE, names.ADAPTER_FILE}


ODD_SOURCES = (
    "http://127.0.0.1:{port}/api/2.0/mlflow-artifacts/artifacts/0/x",
    "mlflow-artifacts://127.0.0.1:{port}/0/x",
    "MLFLOW-ARTIFACTS:/0/x",
    "mlflow-artifacts:/0/x/",
    "mlflow-artifacts:/0//x",
    "mlflow-artifacts:/0/../x",
    "mlflow-artifacts:/0/mod%65l",
    "mlflow-artifacts:/0/mo\tdel",
    "mlflow-artifacts:/0/x?",
    "mlflow-artifacts:/mlflow.env",
    "file:///etc",
    "/etc",
    "s3://bucket/0/x",
)


@pytest.mark.parametrize("source", ODD_SOURCES)
def test_files_are_read_from_the_tracking_server_alone(
    mlflow_server: MlflowServer,
    adapter: tuple[Path, AdapterManifest],
    bundle: tuple[Path, BundleManifest],
    tmp_path: Path,
    source: str,
) -> None:
    """Nobody but the tracking server ever receives this service's login, and no other spelling of its addresses is followed."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        publisher = MlflowPublisher(mlflow_server.uri)
        number = publisher.publish_adapter(adapter[0])
        publisher.publish_bundle(bundle[0], bundle[1].digest())
        store = MlflowStore(tracking_uri=mlflow_server.uri, model=publisher.model)
        bundles = store.bundles(bundle[1].digest())
        place = source.format(port=listening.getsockname()[1])
        with contextlib.closing(sqlite3.connect(mlflow_server.database, timeout=10)) as database, database:
            for model, version in ((publisher.model, number), *((one.model, one.number) for one in bundles)):
                database.execute(
                    "UPDATE model_versions SET source = ?, storage_location = ? WHERE name = ? AND version = ?",
                    (place, place, model, version),
                )
        for ask in (
            lambda: store.adapter_manifest(number),
            lambda: store.fetch_weights(number, tmp_path),
            lambda: store.fetch_bundle(bundles[-1], tmp_path),
        ):
            with pytest.raises(ArtifactSourceError) as error:
                ask()
            assert "received" in str(error.value)
        with pytest.raises(TimeoutError):
            listening.accept()
    assert list(tmp_path.iterdir()) == [tmp_path / "adapter"]


def test_a_training_runs_first_validation_image_is_found(
    mlflow_server: MlflowServer, adapter: tuple[Path, AdapterManifest]
) -> None:
    """By the names that `log_image` gives its files now: an earlier pattern never matched them."""
    from PIL import Image

    publisher = MlflowPublisher(mlflow_server.uri)
    number = publisher.publish_adapter(adapter[0])
    for step, colour in ((10, "red"), (20, "blue")):
        for key in ("validation_0", "validation_1"):
            image = Image.new("RGB", (8, 8), colour if key == "validation_0" else "green")
            publisher.client.log_image(publisher.run.run_id, image, key=key, step=step, synchronous=True)
    store = MlflowStore(tracking_uri=mlflow_server.uri, model=publisher.model)
    found = Image.open(io.BytesIO(store.validation_image(number)))
    assert found.convert("RGB").getpixel((0, 0)) == (0, 0, 255)
