"""Command lines of diffusers' training scripts run as written, with other data, another base model and fewer steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from atelier_trainer.config.options import TrainOptions

from .conftest import TINY, PublishedTraining
from .diffusers_commands import TRAIN, TUNE, with_base_and_data

pytestmark = pytest.mark.timeout(1800)
TRAIN_TUNE = Path(__file__).parents[2] / "services/trainer/train_tune.py"


def run(command: list[str], published: PublishedTraining, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """The server is the one that has the tiny base model's bundle already."""
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": published.options.tracking.tracking_uri,
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",
    }
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


def test_accelerate_launch(published: PublishedTraining, sketches: Path, tmp_path: Path) -> None:
    """Its two fallbacks give one warning each; it trains at another size than the base model's own."""
    launch = [str(Path(sys.executable).parent / "accelerate"), "launch", "--mixed_precision=fp16", str(TRAIN_TUNE)]
    short = [
        "--max_train_steps=2",
        "--validation_samples=4",
        f"--cache_dir={tmp_path / 'cache'}",
        "--register=as-written",
    ]
    ended = run([*launch, *with_base_and_data(TRAIN, TINY, sketches), *short], published, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("warning: ") == 2
    assert "warning: mixed_precision fp16 needs a GPU" in ended.stderr
    assert "warning: xformers attention is off" in ended.stderr
    client = mlflow.MlflowClient(published.options.tracking.tracking_uri)
    (version,) = client.search_model_versions("name = 'as-written'")
    logged = client.get_run(version.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.params["width"] == "256"
    assert len([f for f in client.list_artifacts(version.run_id, "images") if f.path.endswith(".png")]) == 2
    assert (tmp_path / "LoRA_sketch_output/pytorch_lora_weights.safetensors").exists()


@pytest.mark.full
def test_accelerate_launch_with_two_processes(small: TrainOptions, tmp_path: Path) -> None:
    launch = [str(Path(sys.executable).parent / "accelerate"), "launch", "--cpu", "--num_processes=2", str(TRAIN_TUNE)]
    flags = {
        "pretrained_model_name_or_path": small.model.pretrained_model_name_or_path,
        "train_data_dir": small.data.train_data_dir,
        "tracking_uri": small.tracking.tracking_uri,
        "validation_samples": 4,
        "max_train_steps": 2,
        "output_dir": tmp_path / "out",
        "cache_dir": tmp_path / "cache",
        "result_file": tmp_path / "result.json",
        "register": "launched",
    }
    ended = subprocess.run(
        [*launch, *(f"--{name}={value}" for name, value in flags.items())],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["step"], result["version"]) == (2, 1)
    run = mlflow.MlflowClient(small.tracking.tracking_uri).get_run(result["run_id"])
    assert run.info.status == "FINISHED"
    assert len(mlflow.MlflowClient(small.tracking.tracking_uri).get_metric_history(result["run_id"], "loss")) == 2


@pytest.mark.full
def test_tune(published: PublishedTraining, sketches: Path, tmp_path: Path) -> None:
    short = ["--max_train_steps=1", "--validation_samples=4", f"--cache_dir={tmp_path / 'cache'}"]
    ended = run([sys.executable, str(TRAIN_TUNE), *with_base_and_data(TUNE, TINY, sketches), *short], published, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("needs a GPU and the cluster has none") == 1
    assert '"trials": 6' in ended.stdout + ended.stderr
    client = mlflow.MlflowClient(published.options.tracking.tracking_uri)
    experiment = client.get_experiment_by_name("sketch_ray_tune")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 7
    assert all(run.info.status == "FINISHED" for run in runs)
