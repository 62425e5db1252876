"""What the registry on MLflow alone does: calls, files and outages."""

from __future__ import annotations

import hashlib
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from atelier_contracts.names import WEIGHTS_FILE
from atelier_registry.errors import InvalidArgumentError, TrackingUnavailableError, UnreadableFileError
from atelier_registry.models import artifact_stream
from atelier_registry.models.mlflow_registry import MlflowRegistry

from ...servers import MlflowServer, free_port
from ..adapter_files import FILES
from ..real_registry import RealWorld


def test_listing_takes_one_call_however_many_versions(
    real_world: RealWorld, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_world.add_model(name)
    for _ in range(4):
        real_world.add_version(name)
    sent, send = [], requests.Session.send
    monkeypatch.setattr(requests.Session, "send", lambda self, *args, **more: sent.append(args) or send(self, *args, **more))
    assert len(real_world.registry.versions(name, 50, None).items) == 4
    assert len(sent) == 1
    real_world.registry.models(50, None)
    assert len(sent) == 2


def test_files_of_a_version_registered_from_a_run(real_world: RealWorld, name: str) -> None:
    real_world.add_model(name)
    run = real_world.client.create_run(real_world._experiment)
    real_world.client.log_text(run.info.run_id, FILES["evidence.json"], "model/adapter_weights/evidence.json")
    real_world.client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id, await_creation_for=0)
    assert real_world.registry.files(name, 1) == {"evidence.json": FILES["evidence.json"]}


def test_a_file_too_large_for_a_manifest_is_not_read(real_world: RealWorld, name: str) -> None:
    real_world.add_model(name)
    real_world.add_version(name, files={"evidence.json": "0" * (2**20 + 1)})
    with pytest.raises(UnreadableFileError, match="1048577 bytes"):
        real_world.registry.files(name, 1)


@pytest.mark.parametrize(
    "place",
    [
        "mlflow-artifacts://elsewhere:80/1",
        "http://127.0.0.1:{port}/1",
        "mlflow-artifacts://127.0.0.1:{port}/1",
        "MLFLOW-ARTIFACTS:/1/model",
        "mlflow-artifacts:/1/model/",
        "mlflow-artifacts:/1/../model",
        "mlflow-artifacts:/1/mod%65l",
        "mlflow-artifacts:/1/mo\tdel",
        "mlflow-artifacts:/mlflow.env",
        "file:///etc",
        "s3://bucket/1",
    ],
)
def test_files_are_read_from_the_tracking_server_alone(real_world: RealWorld, name: str, place: str) -> None:
    """In the one spelling of its addresses; nobody else ever receives this service's login."""
    real_world.add_model(name)
    real_world.add_version(name, tags={"atelier.kind": "adapter"})
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        real_world.keep_files_elsewhere(name, 1, place.format(port=listening.getsockname()[1]))
        for ask in (real_world.registry.files, real_world.registry.adapter_files):
            with pytest.raises(UnreadableFileError, match="not stored by the tracking server"):
                ask(name, 1)
        with pytest.raises(TimeoutError):
            listening.accept()


def test_names_with_both_kinds_of_quotes_cannot_be_searched_for(real_world: RealWorld, name: str) -> None:
    real_world.add_model(f"'\"{name}")
    with pytest.raises(InvalidArgumentError, match="both kinds of quotes"):
        real_world.registry.versions(f"'\"{name}", 5, None)


@pytest.mark.parametrize(
    "question",
    [
        lambda registry: registry.ping(),
        lambda registry: registry.models(5, None),
        lambda registry: registry.model("pencil"),
        lambda registry: registry.versions("pencil", 5, None),
        lambda registry: registry.version("pencil", 1),
        lambda registry: registry.run("run"),
        lambda registry: registry.files("pencil", 1),
        lambda registry: registry.set_alias("pencil", "champion", 1),
    ],
)
def test_an_unreachable_server_is_an_outage(question: Callable[..., Any]) -> None:
    with pytest.raises(TrackingUnavailableError):
        question(MlflowRegistry(f"http://127.0.0.1:{free_port()}"))


def test_a_server_that_is_not_mlflow_is_an_outage(mlflow_server: MlflowServer) -> None:
    with pytest.raises(TrackingUnavailableError):
        MlflowRegistry(f"{mlflow_server.uri}/elsewhere").model("pencil")


def test_weights_are_read_without_a_disk(
    real_world: RealWorld, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The service's own file system holds nothing, whatever the size of an adapter."""
    real_world.add_model(name)
    weights = "w" * (3 << 20)
    real_world.add_version(name, tags={"atelier.kind": "adapter"}, files=FILES | {WEIGHTS_FILE: weights})
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    found = real_world.registry.adapter_files(name, 1)
    assert found.weights_sha256 == hashlib.sha256(weights.encode()).hexdigest()
    assert found.manifest == FILES["adapter.json"]


def test_a_file_that_grows_while_it_is_read_is_not_read_on(
    real_world: RealWorld, name: str, mlflow_server: MlflowServer
) -> None:
    real_world.add_model(name)
    real_world.add_version(name, files={"evidence.json": "0" * 5000})
    uri = real_world.client.get_model_version_download_uri(name, "1")
    with pytest.raises(UnreadableFileError, match="more than 4999 bytes"):
        artifact_stream.text(f"{uri}/adapter_weights", "evidence.json", mlflow_server.uri, 4999)
