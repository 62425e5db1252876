"""A training that is killed and resumed gives the losses and the bytes of one that was never interrupted."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from atelier_trainer import checkpoint
from atelier_trainer.checkpoint import Checkpoint, CheckpointFolder
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.data.process_group import SingleProcess
from atelier_trainer.errors import CheckpointError, OptionError
from atelier_trainer.tracking.run_folder import read_run_metadata, run_lock

from .conftest import run_training
from .forked_training import adapter_bytes, end, outcomes, start_training

STEPS = 6
pytestmark = pytest.mark.timeout(900)  # servers and processes start several times, on a machine that may be busy


def run_id(folder: Path) -> str:
    metadata = read_run_metadata(folder)
    assert metadata is not None
    return metadata.run_id


def checkpoints(folder: Path) -> CheckpointFolder:
    return CheckpointFolder(folder, SingleProcess())


def curves(options: TrainOptions) -> dict[str, list[tuple[int, float]]]:
    """Every curve of the folder's run, as MLflow has it."""
    client, run = mlflow.MlflowClient(options.tracking.tracking_uri), run_id(Path(options.output.output_dir))
    names = ("loss", "ema_loss", "learning_rate", "validation_loss", "kept_validation_loss")
    return {name: [(m.step, m.value) for m in client.get_metric_history(run, name)] for name in names}


def run_until_killed(options: TrainOptions, step: int, processes: int) -> None:
    """SIGKILL ends every process once the step is logged."""
    started = start_training(options, processes, kill_at=step)
    assert outcomes(started[:1]) == [-signal.SIGKILL]
    end(started[1:])


def run_to_the_end(options: TrainOptions, processes: int) -> None:
    assert outcomes(start_training(options, processes)) == [0] * processes


def assert_same_after_kills(options: TrainOptions, tmp_path: Path, steps: list[int], processes: int) -> None:
    whole = options.with_flags(output_dir=str(tmp_path / "whole"))
    run_to_the_end(whole, processes)
    resumed = options.with_flags(output_dir=str(tmp_path / "resumed"), resume_from_checkpoint="latest")
    for step in steps:
        run_until_killed(resumed, step, processes)
    run_to_the_end(resumed, processes)
    assert curves(resumed) == curves(whole)
    assert [step for step, _ in curves(whole)["loss"]] == list(range(1, STEPS + 1))
    assert adapter_bytes(tmp_path / "resumed") == adapter_bytes(tmp_path / "whole")


def test_killed_before_between_and_at_checkpoints_it_resumes_exactly(small: TrainOptions, tmp_path: Path) -> None:
    """20 images, 4 per step: step 5 ends an epoch; 3 and 4 are in the middle of one."""
    assert_same_after_kills(small.with_flags(random_flip=True, lora_dropout=0.1), tmp_path, [1, 4, 5], processes=1)


def test_two_processes_that_were_killed_resume_exactly(small: TrainOptions, tmp_path: Path) -> None:
    assert_same_after_kills(small, tmp_path, [3], processes=2)


@pytest.mark.full
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_at_any_step_it_resumes_exactly(
    small: TrainOptions, tmp_path: Path, step: Any, accumulation: Any, processes: Any
) -> None:
    options = small.with_flags(gradient_accumulation_steps=accumulation)
    assert_same_after_kills(options, tmp_path, [step], processes)


@pytest.fixture
def two_checkpoints(small: TrainOptions) -> TrainOptions:
    run_training(small.with_flags(max_train_steps=STEPS))
    assert checkpoints(Path(small.output.output_dir)).steps() == [4, 2]
    return small.with_flags(resume_from_checkpoint="latest")


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "manifest"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    two_checkpoints: TrainOptions, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    out = Path(two_checkpoints.output.output_dir)
    newest = out / "checkpoint-4"
    file = newest / ("checkpoint.json" if damage == "manifest" else "state.safetensors")
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(
            content[: len(content) // 2] if damage in ("cut", "manifest") else content[:-1] + bytes([content[-1] ^ 1])
        )
    with pytest.raises(CheckpointError, match=r"checkpoint-4' is damaged"):
        checkpoints(out).load(newest)
    assert checkpoints(out).newest() == out / "checkpoint-2"
    assert "using the one before" in caplog.text
    before = adapter_bytes(out)
    run_training(two_checkpoints)
    assert adapter_bytes(out) == before


def test_a_kill_during_a_save_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: Path) -> None:
        raise KeyboardInterrupt

    folder = checkpoints(tmp_path)
    folder.save(Checkpoint(1, {"a": 1}, {}), {})
    monkeypatch.setattr(checkpoint, "fsync", kill)
    with pytest.raises(KeyboardInterrupt):
        folder.save(Checkpoint(2, {"a": 2}, {}), {})
    assert folder.newest() == tmp_path / "checkpoint-1"


def test_the_newest_checkpoints_are_kept(small: TrainOptions) -> None:
    run_training(small.with_flags(checkpointing_steps=1, checkpoints_total_limit=2))
    assert checkpoints(Path(small.output.output_dir)).steps() == [5, 4]


def test_other_settings_are_refused_with_both_values(two_checkpoints: TrainOptions) -> None:
    with pytest.raises(CheckpointError, match=r"--learning_rate was 0.01 and is 0.02"):
        run_training(two_checkpoints.with_flags(learning_rate=0.02))


def test_another_number_of_processes_is_refused(two_checkpoints: TrainOptions) -> None:
    class Pair(SingleProcess):
        num_processes = 2

    folder = Path(two_checkpoints.output.output_dir)
    with pytest.raises(CheckpointError, match="written by 1 processes and there are 2 now"):
        CheckpointFolder(folder, Pair()).load(folder / "checkpoint-4")


def test_a_checkpoint_of_another_run_is_refused(two_checkpoints: TrainOptions, tmp_path: Path) -> None:
    other = Path(two_checkpoints.output.output_dir) / "checkpoint-2"
    with pytest.raises(CheckpointError, match="belongs to another run"):
        run_training(two_checkpoints.with_flags(output_dir=str(tmp_path / "other"), resume_from_checkpoint=str(other)))


def test_a_new_training_archives_the_earlier_run_of_its_folder(two_checkpoints: TrainOptions) -> None:
    folder = Path(two_checkpoints.output.output_dir)
    first = run_id(folder)
    run_training(two_checkpoints.with_flags(resume_from_checkpoint=None))
    assert run_id(folder) != first
    assert (folder / "earlier" / first / "checkpoint-4/checkpoint.json").exists()


def test_two_trainings_cannot_share_a_folder(small: TrainOptions) -> None:
    with run_lock(Path(small.output.output_dir)), pytest.raises(OptionError, match="another process works in"):
        run_training(small)


def test_a_checkpoint_restores_plain_values_and_tensors(tmp_path: Path) -> None:
    shared = {"a": {1: torch.arange(3), 2: (0.1, None, True)}, "b": [math.inf, "x"], 7: torch.tensor(2.5)}
    path = checkpoints(tmp_path).save(Checkpoint(3, shared, {"rng": torch.zeros(2, dtype=torch.uint8)}), {"s": 1})  # type: ignore[arg-type]
    restored = checkpoints(tmp_path).load(path)
    assert restored.step == 3
    assert torch.equal(restored.shared["a"][1], torch.arange(3))
    assert restored.shared["a"][2] == (0.1, None, True)
    assert restored.shared["b"] == [math.inf, "x"]
    assert restored.shared[7].item() == 2.5  # type: ignore[index]
    assert restored.local["rng"].dtype == torch.uint8
