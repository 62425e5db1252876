"""What a `ModelRegistry` does: the same tests for the fake and for an MLflow server."""

import hashlib
import math
import socket
import tempfile

import pytest
import requests
from atelier_contracts.names import WEIGHTS_FILE
from atelier_registry.errors import InvalidArgumentError, TrackingUnavailableError, UnreadableFileError
from atelier_registry.models import artifact_stream
from atelier_registry.models.mlflow_registry import MlflowRegistry

from ...servers import free_port
from ..adapter_files import FILES


def test_ping(world):
    world.registry.ping()


def test_what_does_not_exist_is_none(world, name):
    world.add_model(name)
    registry = world.registry
    assert registry.model("nobody") is None
    assert registry.version(name, 1) is None
    assert registry.version("nobody", 1) is None
    assert registry.version(name, 2**31) is None
    assert registry.version(name, 2**80) is None
    assert registry.run("0" * 32) is None
    assert not registry.versions("nobody", 5, None).items


def test_a_model_has_aliases_and_a_latest_version(world, name):
    world.add_model(name, "pencil drawings")
    assert world.registry.model(name).latest is None
    for _ in range(2):
        world.add_version(name)
    world.point(name, "champion", 1)
    world.point(name, "candidate", 2)
    model = world.registry.model(name)
    assert (model.name, model.description, dict(model.aliases)) == (name, "pencil drawings", {"champion": 1, "candidate": 2})
    assert model.latest.number == 2
    assert model.aliases_of(1) == ["champion"]


def test_a_version(world, name):
    world.add_model(name)
    number = world.add_version(name, tags={"atelier.kind": "adapter", "mood": "calm"})
    version = world.registry.version(name, number)
    assert (version.model, version.number, version.status, version.kind) == (name, 1, "READY", "adapter")
    assert dict(version.tags) == {"atelier.kind": "adapter", "mood": "calm"}
    assert version.created_at.utcoffset().total_seconds() == 0
    assert version.run_id
    assert world.registry.versions(name, 5, None).items == [version]


def test_a_version_that_is_not_ready(world, name):
    world.add_model(name)
    world.add_version(name)
    world.make_pending(name, 1)
    assert world.registry.version(name, 1).status == "PENDING_REGISTRATION"


def test_versions_come_newest_first_in_pages(world, name):
    world.add_model(name)
    for _ in range(12):
        world.add_version(name)
    seen, token = [], None
    for _ in range(3):
        page = world.registry.versions(name, 5, token)
        seen.append([version.number for version in page.items])
        token = page.next_token
    assert seen == [[12, 11, 10, 9, 8], [7, 6, 5, 4, 3], [2, 1]]
    assert token is None


def test_models_come_by_name_in_pages(world, name):
    names = [world.add_model(f"{name}-{letter}") for letter in "cab"]
    seen, token, pages = [], None, 0
    while True:
        page = world.registry.models(2, token)
        assert len(page.items) <= 2
        seen += [model.name for model in page.items]
        pages, token = pages + 1, page.next_token
        if token is None:
            break
    assert seen == sorted(seen)
    assert set(names) <= set(seen)
    assert pages == math.ceil(len(seen) / 2)


@pytest.mark.parametrize("token", ["zzz", "zzz!", "né", ""])
def test_a_wrong_page_token_is_refused(world, name, token):
    world.add_model(name)
    with pytest.raises(InvalidArgumentError, match=r"page.token"):
        world.registry.models(2, token)
    with pytest.raises(InvalidArgumentError, match=r"page.token"):
        world.registry.versions(name, 2, token)


def test_a_name_that_no_model_can_have_is_refused(world):
    with pytest.raises(InvalidArgumentError, match="Names cannot contain"):
        world.registry.model("a:b")


@pytest.mark.parametrize("odd", ["it's", 'so "called"', "Größe 1", "50% off", "a_b", "x' OR name != '"])
def test_odd_names(world, name, odd):
    world.add_model(odd + name)
    world.add_model(name)
    world.add_version(name)
    world.add_version(odd + name)
    assert world.registry.model(odd + name).name == odd + name
    assert [version.model for version in world.registry.versions(odd + name, 5, None).items] == [odd + name]


def test_a_run(world, name):
    world.add_model(name)
    world.add_version(
        name, params={"rank": "8"}, metrics={"loss": 0.25, "broken": math.nan}, run_tags={"mlflow.source.git.commit": "1c2f7a9"}
    )
    run = world.registry.run(world.registry.version(name, 1).run_id)
    assert (run.name, run.status, dict(run.params)) == ("a run", "FINISHED", {"rank": "8"})
    assert run.metrics["loss"] == 0.25
    assert math.isnan(run.metrics["broken"])
    assert run.tags["mlflow.source.git.commit"] == "1c2f7a9"


def test_files(world, name):
    world.add_model(name)
    world.add_version(name, files=FILES)
    world.add_version(name)
    assert world.registry.files(name, 1) == FILES
    assert world.registry.files(name, 2) == {}
    assert world.registry.files(name, 3) == {}


def test_files_stored_elsewhere_are_not_read(world, name):
    world.add_model(name)
    world.add_version(name, files=FILES)
    world.keep_files_elsewhere(name, 1)
    with pytest.raises(UnreadableFileError, match="not stored by the tracking server"):
        world.registry.files(name, 1)


def test_an_alias_moves(world, name):
    world.add_model(name)
    for _ in range(2):
        world.add_version(name)
    assert world.registry.set_alias(name, "champion", 1)
    assert world.registry.set_alias(name, "champion", 2)
    assert dict(world.registry.model(name).aliases) == {"champion": 2}


def test_an_alias_does_not_move_to_what_is_not_there(world, name):
    world.add_model(name)
    world.add_version(name)
    world.point(name, "champion", 1)
    assert not world.registry.set_alias(name, "champion", 2)
    assert not world.registry.set_alias(name, "champion", 2**80)
    assert not world.registry.set_alias("nobody", "champion", 1)
    assert dict(world.registry.model(name).aliases) == {"champion": 1}


def test_a_reserved_alias_is_refused(world, name):
    world.add_model(name)
    world.add_version(name)
    with pytest.raises(InvalidArgumentError, match="reserved"):
        world.registry.set_alias(name, "latest", 1)


def test_a_deleted_version_takes_its_aliases_along(world, name):
    world.add_model(name)
    world.add_version(name)
    world.point(name, "champion", 1)
    world.delete_version(name, 1)
    assert world.registry.version(name, 1) is None
    assert dict(world.registry.model(name).aliases) == {}


# Of the MLflow server only.


def test_listing_takes_one_call_however_many_versions(real_world, name, monkeypatch):
    real_world.add_model(name)
    for _ in range(4):
        real_world.add_version(name)
    sent, send = [], requests.Session.send
    monkeypatch.setattr(requests.Session, "send", lambda self, *args, **more: sent.append(args) or send(self, *args, **more))
    assert len(real_world.registry.versions(name, 50, None).items) == 4
    assert len(sent) == 1
    real_world.registry.models(50, None)
    assert len(sent) == 2


def test_files_of_a_version_registered_from_a_run(real_world, name):
    real_world.add_model(name)
    run = real_world.client.create_run(real_world._experiment)
    real_world.client.log_text(run.info.run_id, FILES["evidence.json"], "model/adapter_weights/evidence.json")
    real_world.client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id, await_creation_for=0)
    assert real_world.registry.files(name, 1) == {"evidence.json": FILES["evidence.json"]}


def test_a_file_too_large_for_a_manifest_is_not_read(real_world, name):
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
def test_files_are_read_from_the_tracking_server_alone(real_world, name, place):
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


def test_names_with_both_kinds_of_quotes_cannot_be_searched_for(real_world, name):
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
def test_an_unreachable_server_is_an_outage(question):
    with pytest.raises(TrackingUnavailableError):
        question(MlflowRegistry(f"http://127.0.0.1:{free_port()}"))


def test_a_server_that_is_not_mlflow_is_an_outage(mlflow_server):
    with pytest.raises(TrackingUnavailableError):
        MlflowRegistry(f"{mlflow_server.uri}/elsewhere").model("pencil")


def test_weights_are_read_without_a_disk(real_world, name, monkeypatch, tmp_path):
    """The service's own file system holds nothing, whatever the size of an adapter."""
    real_world.add_model(name)
    weights = "w" * (3 << 20)
    real_world.add_version(name, tags={"atelier.kind": "adapter"}, files=FILES | {WEIGHTS_FILE: weights})
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    found = real_world.registry.adapter_files(name, 1)
    assert found.weights_sha256 == hashlib.sha256(weights.encode()).hexdigest()
    assert found.manifest == FILES["adapter.json"]


def test_a_file_that_grows_while_it_is_read_is_not_read_on(real_world, name, mlflow_server):
    real_world.add_model(name)
    real_world.add_version(name, files={"evidence.json": "0" * 5000})
    uri = real_world.client.get_model_version_download_uri(name, "1")
    with pytest.raises(UnreadableFileError, match="more than 4999 bytes"):
        artifact_stream.text(f"{uri}/adapter_weights", "evidence.json", mlflow_server.uri, 4999)
