"""gc removes deleted items, and never what a registered version needs, in whatever form its source is."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow.tracking._tracking_service.utils
import pytest
from atelier_tracking.errors import JobError
from atelier_tracking.maintenance.garbage_collection import bucket_path, collect_garbage
from atelier_tracking.server.schema import open_schema
from mlflow.entities import ViewType
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

BUCKET = "s3://artifacts"


class FakeFiles:
    """Records removed folders; `fail` makes removals fail."""

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
    """MLflow's two stores on one database, and the garbage collection."""

    def __init__(self, uri: str) -> None:
        self.uri, self.files, self.output = uri, FakeFiles(), list[str]()
        self.tracking, self.registry = Tracking(uri, "mlflow-artifacts:/"), Registry(uri)
        self.experiment = self.tracking.create_experiment("sketches")

    def deleted_run(self) -> tuple[str, str]:
        """Creates and deletes a run; returns its id and the URI of its files."""
        info = self.tracking.create_run(self.experiment, "ana", 1, [], "run").info
        self.tracking.delete_run(info.run_id)
        return info.run_id, info.artifact_uri

    def version(self, source: str, run_id: str | None = None, name: str = "sketch") -> None:
        if name not in [model.name for model in self.registry.search_registered_models()]:
            self.registry.create_registered_model(name)
        self.registry.create_model_version(name, source, run_id)

    def collect(self, *, remove: bool = True, older_than_days: float = 0.0) -> str:
        self.output.clear()
        collect_garbage(
            self.uri, BUCKET, older_than_days=older_than_days, remove=remove, write=self.output.append, files=self.files
        )
        return "\n".join(self.output)

    def runs(self) -> set[str]:
        runs = self.tracking.search_runs([self.experiment], "", ViewType.ALL)
        return {run.info.run_id for run in runs}


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take a second to create."""
    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    open_schema(f"sqlite:///{file}").require_current()
    return file


@pytest.fixture
def server(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    uri = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # where the registry store looks up logged models
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)  # reset what other tests set
    return Server(uri)


def test_a_deleted_run_is_removed_with_its_files(server: Server) -> None:
    run, uri = server.deleted_run()
    active = server.tracking.create_run(server.experiment, "ana", 1, [], "run").info.run_id
    assert f"removable run {run}: 2 files, 1.5 MB" in server.collect(remove=False)
    assert server.files.removed == [] and server.runs() == {run, active}
    assert f"removed run {run}" in server.collect()
    assert server.files.removed == [uri.removeprefix("mlflow-artifacts:/")] and server.runs() == {active}


SOURCES = (
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


@pytest.mark.parametrize("source", SOURCES)
def test_a_run_that_a_version_needs_is_kept(server: Server, source: str) -> None:
    run, uri = server.deleted_run()
    path = uri.removeprefix("mlflow-artifacts:/")
    names = {"uri": uri, "run": run, "path": path, "experiment": server.experiment, "tab": f"{server.experiment}/{run}\t"}
    server.version(source.format(**names, upper=uri.replace("mlflow-artifacts", "MLFLOW-ARTIFACTS")))
    output = server.collect()
    assert f"kept     run {run}: version 1 of sketch needs it" in output
    assert server.files.removed == [] and server.runs() == {run}


def test_a_run_of_a_version_with_files_elsewhere_is_kept(server: Server) -> None:
    run, _ = server.deleted_run()
    server.version("s3://somewhere/else", run)
    server.collect()
    assert server.runs() == {run}


def test_the_run_of_a_bundle_is_kept(server: Server) -> None:
    run, uri = server.deleted_run()
    server.version(f"{uri}/bundle", run, name="sketch-base")
    assert "version 1 of sketch-base needs it" in server.collect()


def test_the_run_of_a_deleted_version_is_removed(server: Server) -> None:
    run, uri = server.deleted_run()
    server.version(f"{uri}/model", run)
    server.registry.delete_model_version("sketch", "1")
    server.collect()
    assert server.runs() == set()


def test_a_logged_model_is_kept_with_its_run(server: Server) -> None:
    run, _ = server.deleted_run()
    model = server.tracking.create_logged_model(server.experiment, "m", run)
    other = server.tracking.create_logged_model(server.experiment, "other", None)
    server.version(f"models:/{model.model_id}")
    for logged_model in (model, other):
        server.tracking.delete_logged_model(logged_model.model_id)
    output = server.collect()
    assert f"kept     logged model {model.model_id}: version 1 of sketch needs it" in output
    assert f"kept     run {run}: version 1 of sketch needs" in output
    assert f"removed logged model {other.model_id}" in output
    assert server.tracking.get_logged_model(model.model_id, allow_deleted=True)


def test_an_experiment_is_kept_while_one_of_its_runs_is(server: Server) -> None:
    kept, uri = server.deleted_run()
    removed, _ = server.deleted_run()
    server.version(f"{uri}/model")
    server.tracking.delete_experiment(server.experiment)
    for remove in (False, True):
        output = server.collect(remove=remove)
        assert f"kept     experiment {server.experiment}: 1 of its runs or logged models are kept" in output
    assert server.runs() == {kept} and removed not in server.runs()
    server.registry.delete_model_version("sketch", "1")
    assert f"removable experiment {server.experiment}" in server.collect(remove=False)
    server.collect()
    names = [experiment.name for experiment in server.tracking.search_experiments(ViewType.ALL)]
    assert names == ["Default"]


def test_an_interrupted_collection_is_completed_by_the_next(server: Server) -> None:
    run, _ = server.deleted_run()
    server.files.fail = True
    with pytest.raises(ConnectionError):
        server.collect()
    assert server.runs() == {run}
    server.files.fail = False
    server.collect()
    assert server.runs() == set()


def test_recently_deleted_items_are_kept_by_default(server: Server) -> None:
    run, _ = server.deleted_run()
    assert "0 deleted at least 30 days ago" in server.collect(older_than_days=30.0)
    assert server.runs() == {run}


def test_files_outside_a_run_folder_are_not_removed(server: Server) -> None:
    experiment = server.tracking.create_experiment("elsewhere", "s3://another-bucket/x")
    run = server.tracking.create_run(experiment, "ana", 1, [], "run").info.run_id
    server.tracking.delete_run(run)
    assert "MLflow's own gc removes it" in server.collect()
    assert server.files.removed == []


def test_a_database_of_another_revision_is_not_changed(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="nothing was removed"):
        collect_garbage(
            f"sqlite:///{tmp_path / 'empty.db'}", BUCKET, older_than_days=0, remove=True, write=print, files=FakeFiles()
        )


def test_uris_in_the_bucket() -> None:
    assert bucket_path("mlflow-artifacts:/1/a", BUCKET) == bucket_path("mlflow-artifacts:///1//a/", BUCKET) == "1/a"
    assert bucket_path("s3://artifacts/1/a", BUCKET) == "1/a"
    assert bucket_path("s3://artifacts-of-others/1", BUCKET) is None and bucket_path("/1/a", BUCKET) is None
