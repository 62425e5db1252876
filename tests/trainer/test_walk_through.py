"""The walk-through's two command lines as written, with base and data swapped and the number of steps cut short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from .conftest import TINY
from .walk_through import TRAIN, TUNE, swapped

pytestmark = pytest.mark.timeout(1800)
DOOR = Path(__file__).parents[2] / "services/trainer/train_tune.py"


def run(command: list[str], left, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """The server is the one whose registry already has the tiny base as a bundle."""
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": left.options.tracking_uri,
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",
    }
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


def test_accelerate_launch(left, sketches, tmp_path):
    """Also the run that two warnings and no more come from, and that trains at another size than the base's own."""
    launch = [str(Path(sys.executable).parent / "accelerate"), "launch", "--mixed_precision=fp16", str(DOOR)]
    short = ["--max_train_steps=2", "--validation_samples=4", f"--cache_dir={tmp_path / 'cache'}", "--register=walked"]
    ended = run([*launch, *swapped(TRAIN, TINY, sketches), *short], left, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("warning: ") == 2
    assert "warning: mixed_precision fp16 needs a GPU" in ended.stderr
    assert "warning: xformers attention is left out" in ended.stderr
    client = mlflow.MlflowClient(left.options.tracking_uri)
    (version,) = client.search_model_versions("name = 'walked'")
    found = client.get_run(version.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["width"] == "256"
    assert len([f for f in client.list_artifacts(version.run_id, "images") if f.path.endswith(".png")]) == 2
    assert (tmp_path / "LoRA_sketch_output/pytorch_lora_weights.safetensors").exists()


@pytest.mark.full
def test_accelerate_launch_with_two_processes(small, tmp_path):
    launch = [str(Path(sys.executable).parent / "accelerate"), "launch", "--cpu", "--num_processes=2", str(DOOR)]
    flags = {
        "pretrained_model_name_or_path": small.pretrained_model_name_or_path,
        "train_data_dir": small.train_data_dir,
        "tracking_uri": small.tracking_uri,
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
    found = json.loads((tmp_path / "result.json").read_text())
    assert (found["step"], found["version"]) == (2, 1)
    run = mlflow.MlflowClient(small.tracking_uri).get_run(found["run_id"])
    assert run.info.status == "FINISHED"
    assert len(mlflow.MlflowClient(small.tracking_uri).get_metric_history(found["run_id"], "loss")) == 2


@pytest.mark.full
def test_tune(left, sketches, tmp_path):
    short = ["--max_train_steps=1", "--validation_samples=4", f"--cache_dir={tmp_path / 'cache'}"]
    ended = run([sys.executable, str(DOOR), *swapped(TUNE, TINY, sketches), *short], left, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("needs a GPU and the cluster has none") == 1
    assert '"trials": 6' in ended.stdout + ended.stderr
    client = mlflow.MlflowClient(left.options.tracking_uri)
    experiment = client.get_experiment_by_name("sketch_ray_tune")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 7
    assert all(run.info.status == "FINISHED" for run in runs)
