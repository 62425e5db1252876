"""Searches on a real Ray cluster, by address: grid, ASHA, Optuna, a trial that diverges, one that fails, the winner."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import yaml
from atelier_trainer.config import cli_args
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.errors import OptionError, SearchError
from atelier_trainer.tracking.runs import PARENT_TAG
from atelier_trainer.tune.best_trial import settings_of
from atelier_trainer.tune.options import TuneOptions
from atelier_trainer.tune.search import tune
from atelier_trainer.tune.space import DEFAULT, build_space, read_space
from rich.console import Console

from ..servers import free_port

pytestmark = pytest.mark.timeout(1200)
RAY = str(Path(sys.executable).parent / "ray")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[str]:
    """`ray start --head`, for the tests of this file; its processes end with the one that started them."""
    port, folder = free_port(), tmp_path_factory.mktemp("ray")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    command = [RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    command += ["--object-store-memory=100000000", f"--temp-dir={folder}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_it_answers(process, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def wait_until_it_answers(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while "Ray runtime started" not in log.read_text() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.5)
    assert "Ray runtime started" in log.read_text(), log.read_text()[-3000:]


@pytest.fixture
def options(small) -> TrainOptions:
    return dataclasses.replace(small, max_train_steps=4, validation_steps=2, experiments_name="search", tracking_patience_s=60)


def searched(cluster: str, options: TrainOptions, space: dict | None, tmp_path: Path, **rest) -> tuple[dict, str]:
    file = None
    if space is not None:
        file = tmp_path / "space.yaml"
        file.write_text(yaml.safe_dump(space))
    said = io.StringIO()
    search = TuneOptions(ray_address=cluster, space=file and str(file), cpus_per_trial=0.5, **rest)
    return tune(search, options, Console(file=said, width=250)), said.getvalue()


def children(options: TrainOptions, parent: str) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(options.tracking_uri)
    experiment = client.get_experiment_by_name(options.experiments_name)
    return client.search_runs([experiment.experiment_id], f"tags.`{PARENT_TAG}` = '{parent}'")


def test_a_grid_in_which_one_trial_diverges_and_one_fails(cluster, options, tmp_path):
    space = {"learning_rate": [1e-2, "1e30"], "lora_targets": ["to_q,to_k,to_v,to_out.0", "no_such_layer"]}
    found, said = searched(cluster, options, space, tmp_path, gpus_per_trial=0.5)
    assert (found["trials"], found["failed"]) == (4, 2)
    assert found["best"] == {"learning_rate": 1e-2, "lora_targets": "to_q,to_k,to_v,to_out.0"}
    assert said.count("gpus_per_trial 0.5 needs a GPU and the cluster has none") == 1
    assert said.count(" failed: ") == 2
    assert said.count(" not finite: ") == 1

    client = mlflow.MlflowClient(options.tracking_uri)
    parent = client.get_run(found["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.params["search"] == "grid"
    assert "1e30" in parent.data.params["space"]
    runs = children(options, found["run_id"])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FAILED", "FAILED", "FINISHED"]
    (best,) = [run for run in runs if run.info.status == "FINISHED"]
    assert best.data.params["learning_rate"] == "0.01"
    assert best.data.metrics["kept_validation_loss"] == found["validation_loss"]
    assert [m.step for m in client.get_metric_history(best.info.run_id, "ema_loss")] == [1, 2, 3, 4]

    settings = settings_of(str(options.tracking_uri), found["run_id"])
    assert settings["learning_rate"] == 1e-2
    assert "train_data_dir" not in settings
    again = cli_args.build(
        TrainOptions,
        settings
        | {
            "train_data_dir": options.train_data_dir,
            "pretrained_model_name_or_path": options.pretrained_model_name_or_path,
            "tracking_uri": options.tracking_uri,
        },
        {},
    )
    again.check()
    assert (again.learning_rate, again.max_train_steps, again.rank) == (1e-2, 4, 2)


def test_optuna_and_asha(cluster, options, tmp_path):
    space = {"learning_rate": {"loguniform": [1e-4, 1e-1]}, "rank": {"choice": [1, 2]}}
    found, said = searched(
        cluster, options, space, tmp_path, search="optuna", samples=3, trial_scheduler="asha", gpus_per_trial=0.0
    )
    assert (found["trials"], found["failed"]) == (3, 0)
    runs = children(options, found["run_id"])
    assert len({run.data.params["learning_rate"] for run in runs}) == 3
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    ended = [run for run in runs if run.info.status == "KILLED"]
    assert said.count("stopped early") == len(ended)
    assert found["validation_loss"] == min(run.data.metrics["validation_loss"] for run in runs if run.data.metrics)


@pytest.mark.full
def test_an_interrupted_search_goes_on(cluster, options, tmp_path):
    options = dataclasses.replace(options, max_train_steps=60, checkpointing_steps=5, validation_steps=10)
    space = tmp_path / "space.yaml"
    space.write_text("learning_rate: [1.0e-2, 1.0e-3, 1.0e-4]\n")
    flagged = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    given = [f"--{name}={value}" for name, value in flagged.items() if value is not None and not isinstance(value, bool)]
    command = [sys.executable, "-m", "atelier_trainer", "tune", f"--ray_address={cluster}", f"--space={space}"]
    command += ["--cpus_per_trial=2", "--gpus_per_trial=0", *(flag for flag in given if not flag.startswith("--local_rank"))]
    process = subprocess.Popen(command, start_new_session=True)
    trials = Path(options.output_dir) / "trials"
    while process.poll() is None and len(list(trials.glob("*/checkpoint-*"))) == 0:
        pass
    process.kill()
    process.wait()
    ended = subprocess.run([*command, "--resume_from_checkpoint=latest"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "going on with the interrupted search" in ended.stderr
    assert '"trials": 3' in ended.stdout + ended.stderr


def test_the_default_space_is_the_walk_throughs(options):
    assert read_space(None) == DEFAULT == {"learning_rate": [3e-4, 2e-4, 1e-4], "train_batch_size": [1, 4]}
    assert build_space(DEFAULT, options, grid=True) == {
        "learning_rate": {"grid_search": [3e-4, 2e-4, 1e-4]},
        "train_batch_size": {"grid_search": [1, 4]},
    }


@pytest.mark.parametrize(
    ("space", "said"),
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
def test_a_space_that_makes_no_sense_is_refused(options, space, said):
    with pytest.raises(OptionError) as refusal:
        build_space(space, options, grid=True)
    assert said in str(refusal.value)


def test_a_trial_that_no_node_can_run_is_refused(cluster, options, tmp_path):
    with pytest.raises(SearchError, match=r"a trial takes 0 GPUs and 64 CPUs, and the cluster has 0 and 2"):
        searched(cluster, options, {"rank": [1]}, tmp_path, gpus_per_trial=64.0)


def test_a_cluster_that_does_not_answer(options, tmp_path):
    with pytest.raises(SearchError, match="does not answer"):
        searched("127.0.0.1:9", options, {"rank": [1]}, tmp_path)
