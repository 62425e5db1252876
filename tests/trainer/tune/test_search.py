"""Searches on a real Ray cluster, by address: grid, ASHA, Optuna, trials that diverge or fail, the best settings."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.config.validation import check
from atelier_trainer.errors import OptionError, SearchError
from atelier_trainer.tracking.active_run import PARENT_TAG
from atelier_trainer.tune.best_trial import read_settings
from atelier_trainer.tune.cluster import trial_resources
from atelier_trainer.tune.options import TuneOptions
from atelier_trainer.tune.search import tune
from atelier_trainer.tune.space import DEFAULT_SPACE, build_space, read_space
from rich.console import Console

from ...servers import free_port
from ..conftest import quiet

pytestmark = pytest.mark.timeout(1200)
RAY = str(Path(sys.executable).parent / "ray")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`ray start --head`, for the tests of this file; its processes end with the one that started them."""
    port, folder = free_port(), tmp_path_factory.mktemp("ray")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    command = [RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    command += ["--object-store-memory=100000000", f"--temp-dir={folder}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_started(process, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def wait_until_started(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while "Ray runtime started" not in log.read_text() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.5)
    assert "Ray runtime started" in log.read_text(), log.read_text()[-3000:]


@pytest.fixture
def options(small: TrainOptions) -> TrainOptions:
    return small.with_flags(max_train_steps=4, validation_steps=2, experiments_name="search", tracking_patience_s=60)


def run_search(
    cluster: str, options: TrainOptions, space: dict[str, Any] | None, tmp_path: Path, **rest: Any
) -> tuple[dict[str, Any], str]:
    file = None
    if space is not None:
        file = tmp_path / "space.yaml"
        file.write_text(yaml.safe_dump(space))
    output = io.StringIO()
    search = TuneOptions(ray_address=cluster, space=file and str(file), cpus_per_trial=0.5, **rest)  # type: ignore[arg-type]
    return tune(search, options, Console(file=output, width=250)), output.getvalue()


def trial_runs(options: TrainOptions, parent: str) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(options.tracking.tracking_uri)
    experiment = client.get_experiment_by_name(options.tracking.experiments_name)
    return client.search_runs([experiment.experiment_id], f"tags.`{PARENT_TAG}` = '{parent}'")


def test_a_grid_survives_trials_that_diverge_or_fail(cluster: str, options: TrainOptions, tmp_path: Path) -> None:
    space = {"learning_rate": [1e-2, "1e30"], "lora_targets": ["to_q,to_k,to_v,to_out.0", "no_such_layer"]}
    summary, output = run_search(cluster, options, space, tmp_path, gpus_per_trial=0.5)
    assert (summary["trials"], summary["failed"]) == (4, 2)
    assert summary["best"] == {"learning_rate": 1e-2, "lora_targets": "to_q,to_k,to_v,to_out.0"}
    assert output.count("gpus_per_trial 0.5 needs a GPU and the cluster has none") == 1
    assert output.count(" failed: ") == 2
    assert output.count(" not finite: ") == 1

    client = mlflow.MlflowClient(options.tracking.tracking_uri)
    parent = client.get_run(summary["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.params["search"] == "grid"
    assert "1e30" in parent.data.params["space"]
    runs = trial_runs(options, summary["run_id"])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FAILED", "FAILED", "FINISHED"]
    (best,) = [run for run in runs if run.info.status == "FINISHED"]
    assert best.data.params["learning_rate"] == "0.01"
    assert best.data.metrics["kept_validation_loss"] == summary["validation_loss"]
    assert [m.step for m in client.get_metric_history(best.info.run_id, "ema_loss")] == [1, 2, 3, 4]

    settings = read_settings(str(options.tracking.tracking_uri), summary["run_id"])
    assert settings["learning_rate"] == 1e-2
    assert "train_data_dir" not in settings
    again = TrainOptions.from_flags(
        **settings,
        train_data_dir=options.data.train_data_dir,
        pretrained_model_name_or_path=options.model.pretrained_model_name_or_path,
        tracking_uri=options.tracking.tracking_uri,
    )
    check(again)
    optimization = again.optimization
    assert (optimization.learning_rate, optimization.max_train_steps, again.model.rank) == (1e-2, 4, 2)


def test_optuna_suggests_other_settings_for_each_trial(cluster: str, options: TrainOptions, tmp_path: Path) -> None:
    space = {"learning_rate": {"loguniform": [1e-4, 1e-1]}, "rank": {"choice": [1, 2]}}
    summary, _ = run_search(cluster, options, space, tmp_path, search="optuna", samples=3, gpus_per_trial=0.0)
    assert (summary["trials"], summary["failed"]) == (3, 0)
    runs = trial_runs(options, summary["run_id"])
    assert len({run.data.params["learning_rate"] for run in runs}) == 3
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert summary["validation_loss"] == min(run.data.metrics["kept_validation_loss"] for run in runs)


def test_asha_stops_a_trial_that_falls_behind(cluster: str, options: TrainOptions, tmp_path: Path) -> None:
    """The second trial learns nothing, so its loss at the first validation is above the first trial's."""
    options = options.with_flags(max_train_steps=40, validation_steps=2, lr_scheduler="constant")
    summary, output = run_search(
        cluster, options, {"learning_rate": [1e-2, "1e-30"]}, tmp_path,
        trial_scheduler="asha", gpus_per_trial=0.0, max_concurrent_trials=1,
    )  # fmt: skip
    assert (summary["trials"], summary["failed"]) == (2, 0)
    assert summary["best"] == {"learning_rate": 1e-2}
    assert output.count("stopped early") == 1
    status = {run.data.params["learning_rate"]: run.info.status for run in trial_runs(options, summary["run_id"])}
    assert status == {"0.01": "FINISHED", "1e-30": "KILLED"}


@pytest.mark.parametrize(
    ("gpus_per_trial", "gpus", "expected"),
    [(0.5, 1.0, {"cpu": 1.0, "gpu": 0.5}), (2.0, 4.0, {"cpu": 1.0, "gpu": 2.0}), (2.0, 0.0, {"cpu": 2.0, "gpu": 0.0})],
)
def test_a_trial_reserves_its_share_of_the_gpus_or_cpus_instead(
    monkeypatch: pytest.MonkeyPatch, gpus_per_trial: Any, gpus: Any, expected: Any
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, "GPU": gpus})
    assert trial_resources(TuneOptions(gpus_per_trial=gpus_per_trial), quiet()) == expected


def test_more_gpus_than_the_cluster_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, "GPU": 1.0})
    with pytest.raises(SearchError, match="a trial needs 2 GPUs and 1 CPUs, and the cluster has 1 and 4"):
        trial_resources(TuneOptions(gpus_per_trial=2.0), quiet())


@pytest.mark.full
def test_an_interrupted_search_resumes(cluster: str, options: TrainOptions, tmp_path: Path) -> None:
    options = options.with_flags(max_train_steps=60, checkpointing_steps=5, validation_steps=10)
    space = tmp_path / "space.yaml"
    space.write_text("learning_rate: [1.0e-2, 1.0e-3, 1.0e-4]\n")
    given = [
        f"--{name}={value}" for name, value in options.flags().items() if value is not None and not isinstance(value, bool)
    ]
    command = [sys.executable, "-m", "atelier_trainer", "tune", f"--ray_address={cluster}", f"--space={space}"]
    command += ["--cpus_per_trial=2", "--gpus_per_trial=0", *(flag for flag in given if not flag.startswith("--local_rank"))]
    process = subprocess.Popen(command, start_new_session=True)
    trials = Path(options.output.output_dir) / "trials"
    while process.poll() is None and len(list(trials.glob("*/checkpoint-*"))) == 0:
        pass
    process.kill()
    process.wait()
    ended = subprocess.run([*command, "--resume_from_checkpoint=latest"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "resuming the interrupted search" in ended.stderr
    assert '"trials": 3' in ended.stdout + ended.stderr


def test_the_default_space_is_learning_rate_times_batch_size(options: TrainOptions) -> None:
    assert read_space(None) == DEFAULT_SPACE == {"learning_rate": [3e-4, 2e-4, 1e-4], "train_batch_size": [1, 4]}
    assert build_space(DEFAULT_SPACE, options, grid=True) == {
        "learning_rate": {"grid_search": [3e-4, 2e-4, 1e-4]},
        "train_batch_size": {"grid_search": [1, 4]},
    }


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"learning_rat": [1]}, "'learning_rat' cannot be searched: no such flag"),
        ({"output_dir": ["a"]}, "'output_dir' cannot be searched: it is the same for all trials"),
        ({"rank": [0, 4]}, "--rank must be 1 or more; received 0"),
        ({"rank": ["x"]}, "rank: must be int; received 'x'"),
        ({"rank": 4}, "rank: must be a list"),
        ({"learning_rate": {"uniform": [2e-3, 1e-3]}}, "the lower bound must be below the upper one"),
        ({"learning_rate": {"normal": [0, 1]}}, "learning_rate: must be a list"),
    ],
)
def test_an_invalid_space_is_refused(options: TrainOptions, space: Any, message: Any) -> None:
    with pytest.raises(OptionError) as error:
        build_space(space, options, grid=True)
    assert message in str(error.value)


def test_a_trial_that_no_node_can_run_is_refused(cluster: str, options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"a trial needs 0 GPUs and 64 CPUs, and the cluster has 0 and 2"):
        run_search(cluster, options, {"rank": [1]}, tmp_path, gpus_per_trial=64.0)


def test_a_cluster_that_does_not_answer(options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="does not answer"):
        run_search("127.0.0.1:9", options, {"rank": [1]}, tmp_path)
