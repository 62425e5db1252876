"""gc removes what was deleted, and never what a registered version needs, however the version names it."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow.tracking._tracking_service.utils
import pytest
from atelier_tracking.errors import JobError
from atelier_tracking.maintenance.garbage_collection import collect, folder_of
from atelier_tracking.server.schema import open_schema
from mlflow.entities import ViewType
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

BUCKET = "s3://artifacts"


class Folders:
    """A bucket that remembers which folders were removed, and may fail."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.fail = False

    def measure(self, folder: str) -> tuple[int, int]:
        return 2, 1_500_000

    def remove(self, folder: str) -> None:
        if self.fail:
            raise ConnectionError("interrupted")
        self.removed.append(folder)


class Server:
    """MLflow's two stores on one database, and the command."""

    def __init__(self, uri: str) -> None:
        self.uri, self.files, self.said = uri, Folders(), list[str]()
        self.tracking, self.registry = Tracking(uri, "mlflow-artifacts:/"), Registry(uri)
        self.experiment = self.tracking.create_experiment("sketches")

    def run(self) -> tuple[str, str]:
        """A deleted run: its id, and the address of its files."""
        info = self.tracking.create_run(self.experiment, "ana", 1, [], "run").info
        self.tracking.delete_run(info.run_id)
        return info.run_id, info.artifact_uri

    def version(self, source: str, run_id: str | None = None, name: str = "sketch") -> None:
        if name not in [each.name for each in self.registry.search_registered_models()]:
            self.registry.create_registered_model(name)
        self.registry.create_model_version(name, source, run_id)

    def collect(self, *, remove: bool = True, older_than_days: float = 0.0) -> str:
        self.said.clear()
        options = {"older_than_days": older_than_days, "remove": remove, "say": self.said.append, "files": self.files}
        collect(self.uri, BUCKET, **options)
        return "\n".join(self.said)

    def runs(self) -> set[str]:
        found = self.tracking.search_runs([self.experiment], "", ViewType.ALL)
        return {each.info.run_id for each in found}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """MLflow's tables, whose making takes a second."""
    file = tmp_path_factory.mktemp("made") / "mlflow.db"
    open_schema(f"sqlite:///{file}").require_current()
    return file


@pytest.fixture
def server(made, tmp_path, monkeypatch):
    uri = f"sqlite:///{shutil.copy(made, tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # the registry's store asks for logged models there …
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)  # … wherever other tests pointed MLflow
    return Server(uri)


def test_a_deleted_run_goes_with_its_files_and_nothing_else_does(server):
    run, uri = server.run()
    alive = server.tracking.create_run(server.experiment, "ana", 1, [], "run").info.run_id
    assert f"removable run {run}: 2 files, 1.5 MB" in server.collect(remove=False)
    assert server.files.removed == [] and server.runs() == {run, alive}
    assert f"removed run {run}" in server.collect()
    assert server.files.removed == [uri.removeprefix("mlflow-artifacts:/")] and server.runs() == {alive}


SPELLINGS = (
    "{uri}/model",
    "{uri}/model/",
    "{upper}/model",
    "{uri}/mod%65l",
    "mlflow-artifacts:/{tab}/artifacts/model",
    "runs:/{run}/model",
    "runs:/{run}/model/",
    "RUNS:/{run}/model",
    "s3://artifacts/{path}/model",
    "s3://artifacts/{experiment}",
    "s3://artifacts/",
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_run_that_a_version_needs_stays_however_the_version_names_it(server, spelling):
    run, uri = server.run()
    path = uri.removeprefix("mlflow-artifacts:/")
    names = {"uri": uri, "run": run, "path": path, "experiment": server.experiment, "tab": f"{server.experiment}/{run}\t"}
    server.version(spelling.format(**names, upper=uri.replace("mlflow-artifacts", "MLFLOW-ARTIFACTS")))
    said = server.collect()
    assert f"kept     run {run}: version 1 of sketch needs it" in said
    assert server.files.removed == [] and server.runs() == {run}


def test_a_run_that_a_version_names_stays_even_where_the_files_are_elsewhere(server):
    run, _ = server.run()
    server.version("s3://somewhere/else", run)
    server.collect()
    assert server.runs() == {run}


def test_a_bundle_is_a_version_and_keeps_its_run(server):
    run, uri = server.run()
    server.version(f"{uri}/bundle", run, name="sketch-base")
    assert "version 1 of sketch-base needs it" in server.collect()


def test_a_run_of_a_version_that_was_deleted_goes(server):
    run, uri = server.run()
    server.version(f"{uri}/model", run)
    server.registry.delete_model_version("sketch", "1")
    server.collect()
    assert server.runs() == set()


def test_a_logged_model_stays_with_the_run_that_logged_it(server):
    run, _ = server.run()
    model = server.tracking.create_logged_model(server.experiment, "m", run)
    other = server.tracking.create_logged_model(server.experiment, "other", None)
    server.version(f"models:/{model.model_id}")
    for each in (model, other):
        server.tracking.delete_logged_model(each.model_id)
    said = server.collect()
    assert f"kept     logged model {model.model_id}: version 1 of sketch needs it" in said
    assert f"kept     run {run}: version 1 of sketch needs" in said
    assert f"removed logged model {other.model_id}" in said
    assert server.tracking.get_logged_model(model.model_id, allow_deleted=True)


def test_an_experiment_stays_while_something_of_it_stays(server):
    kept, uri = server.run()
    gone, _ = server.run()
    server.version(f"{uri}/model")
    server.tracking.delete_experiment(server.experiment)
    for remove in (False, True):
        said = server.collect(remove=remove)
        assert f"kept     experiment {server.experiment}: 1 runs or logged models of it are kept" in said
    assert server.runs() == {kept} and gone not in server.runs()
    server.registry.delete_model_version("sketch", "1")
    assert f"removable experiment {server.experiment}" in server.collect(remove=False)
    server.collect()
    names = [each.name for each in server.tracking.search_experiments(ViewType.ALL)]
    assert names == ["Default"]


def test_an_interrupted_run_is_found_again(server):
    run, _ = server.run()
    server.files.fail = True
    with pytest.raises(ConnectionError):
        server.collect()
    assert server.runs() == {run}
    server.files.fail = False
    server.collect()
    assert server.runs() == set()


def test_what_was_deleted_a_moment_ago_stays_by_default(server):
    run, _ = server.run()
    assert "0 deleted at least 30 days ago" in server.collect(older_than_days=30.0)
    assert server.runs() == {run}


def test_files_in_a_place_of_no_run_are_left_alone(server):
    experiment = server.tracking.create_experiment("elsewhere", "s3://another-bucket/x")
    run = server.tracking.create_run(experiment, "ana", 1, [], "run").info.run_id
    server.tracking.delete_run(run)
    assert "MLflow's own gc removes it" in server.collect()
    assert server.files.removed == []


def test_other_tables_than_this_images_are_not_touched(tmp_path):
    with pytest.raises(JobError, match="nothing was removed"):
        collect(f"sqlite:///{tmp_path / 'empty.db'}", BUCKET, older_than_days=0, remove=True, say=print, files=Folders())


def test_addresses_of_the_bucket():
    assert folder_of("mlflow-artifacts:/1/a", BUCKET) == folder_of("mlflow-artifacts:///1//a/", BUCKET) == "1/a"
    assert folder_of("s3://artifacts/1/a", BUCKET) == "1/a"
    assert folder_of("s3://artifacts-of-others/1", BUCKET) is None and folder_of("/1/a", BUCKET) is None
