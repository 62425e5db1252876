"""The commands as a person types them: exit codes, signals, and settings that come from an earlier run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import mlflow
import pytest
from atelier_trainer.__main__ import SPIN_COUNT, main
from atelier_trainer.checkpoint import CheckpointFolder
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.data.process_group import SingleProcess
from atelier_trainer.tracking.run_folder import read_run_metadata
from atelier_trainer.tune.best_trial import BEST_FILE

from ..servers import free_port, mlflow_running
from .conftest import run_training
from .forked_training import adapter_bytes

STEPS = 200  # of some milliseconds each: long enough to be interrupted
TIMEOUT_S = 240
pytestmark = pytest.mark.timeout(900)


def command_line(options: TrainOptions) -> list[str]:
    flags = {name: value for name, value in options.flags().items() if value is not None and name != "local_rank"}
    switches = [f"--{name}" for name, value in flags.items() if value is True]
    return switches + [f"--{name}={value}" for name, value in flags.items() if not isinstance(value, bool)]


@contextmanager
def training_at_its_first_step(options: TrainOptions, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m atelier_trainer train` in a process of its own, once its first loss is in the journal."""
    command = [sys.executable, "-m", "atelier_trainer", "train", *command_line(options)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"})
    journal, deadline = Path(options.output.output_dir) / "journal/journal.jsonl", time.monotonic() + TIMEOUT_S
    try:
        while not (journal.exists() and '"loss"' in journal.read_text()):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def long(small: TrainOptions) -> TrainOptions:
    return small.with_flags(max_train_steps=STEPS, validation_steps=STEPS, checkpointing_steps=STEPS)


def test_sigterm_saves_a_checkpoint_exits_143_and_the_resumed_run_is_exact(long: TrainOptions, tmp_path: Path) -> None:
    folder = Path(long.output.output_dir)
    with training_at_its_first_step(long, tmp_path / "log") as process:
        process.terminate()
        assert process.wait(TIMEOUT_S) == 143
    assert "stopped by SIGTERM at step" in (tmp_path / "log").read_text()
    (step,) = CheckpointFolder(folder, SingleProcess()).steps()
    assert 0 < step < STEPS
    resumed = run_training(long.with_flags(resume_from_checkpoint="latest"))
    steps = [m.step for m in mlflow.MlflowClient(long.tracking.tracking_uri).get_metric_history(resumed.run_id, "loss")]
    assert steps == list(range(1, STEPS + 1))
    run_training(long.with_flags(output_dir=str(tmp_path / "whole")))
    assert adapter_bytes(folder) == adapter_bytes(tmp_path / "whole")


def test_ctrl_c_exits_130_and_marks_the_run_killed(long: TrainOptions, tmp_path: Path) -> None:
    with training_at_its_first_step(long, tmp_path / "log") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
    assert main(["sync", long.output.output_dir]) == 0
    metadata = read_run_metadata(Path(long.output.output_dir))
    assert metadata is not None
    assert mlflow.MlflowClient(long.tracking.tracking_uri).get_run(metadata.run_id).info.status == "KILLED"


def test_a_training_whose_server_stopped_exits_3_and_sync_delivers_it(
    long: TrainOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    (tmp_path / "server").mkdir()
    port = free_port()
    options = long.with_flags(tracking_uri=f"http://127.0.0.1:{port}", tracking_patience_s=0, register="late")
    with ExitStack() as server:
        server.enter_context(mlflow_running(tmp_path / "server", port))
        with training_at_its_first_step(options, tmp_path / "log") as process:
            server.close()
            assert process.wait(TIMEOUT_S) == 3
        assert f"python -m atelier_trainer sync {options.output.output_dir}" in (tmp_path / "log").read_text()
        server.enter_context(mlflow_running(tmp_path / "server", port))
        assert main(["sync", options.output.output_dir]) == 0
        assert "version 1 of late" in capsys.readouterr().err


def test_from_run_trains_with_the_settings_of_an_earlier_run(small: TrainOptions, tmp_path: Path) -> None:
    first = run_training(small)
    result_file = tmp_path / "result.json"
    flags = {
        "from_run": first.run_id,
        "pretrained_model_name_or_path": small.model.pretrained_model_name_or_path,
        "train_data_dir": small.data.train_data_dir,
        "tracking_uri": small.tracking.tracking_uri,
        "cache_dir": small.data.cache_dir,
        "output_dir": tmp_path / "again",
        "result_file": result_file,
    }
    assert main(["train", *(f"--{name}={value}" for name, value in flags.items())]) == 0
    assert adapter_bytes(tmp_path / "again") == adapter_bytes(Path(small.output.output_dir))
    result = json.loads(result_file.read_text())
    assert result["run_id"] != first.run_id
    assert result["validation_loss"] == first.losses.validation_loss


def test_from_run_refuses_a_run_of_another_program(small: TrainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    client = mlflow.MlflowClient(small.tracking.tracking_uri)
    run = client.create_run("0").info.run_id
    assert main(["train", f"--from_run={run}", f"--tracking_uri={small.tracking.tracking_uri}"]) == 2
    assert f"has neither {BEST_FILE} nor recipe.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, SPIN_COUNT), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_the_spin_count_is_set_before_torch_is_imported_unless_the_user_chose(
    environment: dict[str, str], expected: str
) -> None:
    """libgomp reads its variables when torch loads it."""
    script = (
        "import os, sys; from atelier_trainer.__main__ import set_environment; assert 'torch' not in sys.modules; "
        "set_environment(); print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    inherited = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    ended = subprocess.run([sys.executable, "-c", script], env=inherited | environment, capture_output=True, text=True)
    assert ended.stdout.strip() == expected, ended.stderr
