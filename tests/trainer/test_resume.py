"""A training that is killed and goes on gives the losses and the bytes of one that was never stopped."""

from __future__ import annotations

import dataclasses
import signal
import time
from pathlib import Path

import mlflow
import pytest
from atelier_trainer import checkpoint
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.data.cache import SingleProcess
from atelier_trainer.errors import CheckpointError, OptionError
from atelier_trainer.tracking.runs import card_of
from atelier_trainer.train import train

from .conftest import quiet
from .forks import adapter_bytes, crew, end, outcomes

STEPS = 6
pytestmark = pytest.mark.timeout(900)  # servers and processes start several times, on a machine that may be busy


def trained(options: TrainOptions):
    return train(options, quiet(), hand_over=False)


def losses(options: TrainOptions) -> dict[str, list[tuple[int, float]]]:
    """Every curve of the folder's run as MLflow has it."""
    client, card = mlflow.MlflowClient(options.tracking_uri), card_of(Path(options.output_dir))
    names = ("loss", "ema_loss", "learning_rate", "validation_loss", "kept_validation_loss")
    return {name: [(m.step, m.value) for m in client.get_metric_history(card.run_id, name)] for name in names}


def killed(options: TrainOptions, step: int, processes: int) -> None:
    """Every process of the crew gets SIGKILL once the step was logged."""
    members = crew(options, processes, kill_at=step)
    assert outcomes(members[:1]) == [-signal.SIGKILL]
    end(members[1:])


def finished(options: TrainOptions, processes: int) -> None:
    assert outcomes(crew(options, processes)) == [0] * processes


def same_after_kills(options: TrainOptions, tmp_path: Path, steps: list[int], processes: int) -> None:
    whole = dataclasses.replace(options, output_dir=str(tmp_path / "whole"))
    finished(whole, processes)
    resumed = dataclasses.replace(options, output_dir=str(tmp_path / "resumed"), resume_from_checkpoint="latest")
    for step in steps:
        killed(resumed, step, processes)
    finished(resumed, processes)
    assert losses(resumed) == losses(whole)
    assert [step for step, _ in losses(whole)["loss"]] == list(range(1, STEPS + 1))
    assert adapter_bytes(tmp_path / "resumed") == adapter_bytes(tmp_path / "whole")


def test_killed_before_the_first_checkpoint_between_two_and_at_one(small, tmp_path):
    """20 images, 4 a step: step 5 ends an epoch; 3 and 4 lie in the middle of one."""
    same_after_kills(dataclasses.replace(small, random_flip=True, lora_dropout=0.1), tmp_path, [1, 4, 5], processes=1)


def test_two_processes_killed_and_resumed(small, tmp_path):
    same_after_kills(small, tmp_path, [3], processes=2)


@pytest.mark.full
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_at_every_step(small, tmp_path, step, accumulation, processes):
    same_after_kills(dataclasses.replace(small, gradient_accumulation_steps=accumulation), tmp_path, [step], processes)


def test_two_processes_share_the_work_and_agree(small, tmp_path):
    """The mean gradient of two processes with two images each is that of one with four."""
    options = dataclasses.replace(small, gradient_accumulation_steps=1, max_train_steps=1, caption_dropout=0.0)
    finished(dataclasses.replace(options, output_dir=str(tmp_path / "two")), processes=2)
    run = losses(dataclasses.replace(options, output_dir=str(tmp_path / "two")))
    assert len(run["loss"]) == 1  # one process speaks for all
    one = trained(dataclasses.replace(options, train_batch_size=4, output_dir=str(tmp_path / "one")))
    assert one.validation_loss == pytest.approx(run["validation_loss"][0][1], rel=0.2)


def test_sigterm_saves_and_the_run_goes_on(small, tmp_path):
    options = dataclasses.replace(small, checkpointing_steps=100, max_train_steps=400, validation_steps=400)
    out = Path(options.output_dir)
    (member,) = crew(options, 1)
    try:
        deadline = time.monotonic() + 120
        journal = out / "journal/journal.jsonl"
        while time.monotonic() < deadline and not (journal.exists() and '"loss"' in journal.read_text()):
            time.sleep(0.02)
        member.terminate()
        assert outcomes([member]) == [1]  # Stopped was raised
    finally:
        end([member])
    (step,) = checkpoint.steps_of(out)
    assert 0 < step < 400
    run = mlflow.MlflowClient(options.tracking_uri).get_run(card_of(out).run_id)
    assert run.info.status in ("KILLED", "RUNNING")  # told if the server answered at once


@pytest.fixture
def two_checkpoints(small) -> TrainOptions:
    trained(dataclasses.replace(small, max_train_steps=STEPS))
    assert checkpoint.steps_of(Path(small.output_dir)) == [4, 2]
    return dataclasses.replace(small, resume_from_checkpoint="latest")


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "manifest"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used(two_checkpoints, damage, caplog):
    out = Path(two_checkpoints.output_dir)
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
        checkpoint.load(newest, SingleProcess())
    assert checkpoint.newest(out, SingleProcess()) == out / "checkpoint-2"
    assert "the one before is used" in caplog.text
    before = adapter_bytes(out)
    trained(two_checkpoints)
    assert adapter_bytes(out) == before


def test_a_kill_while_a_checkpoint_is_written_leaves_nothing_that_counts(tmp_path, monkeypatch):
    def dies(*_):
        raise KeyboardInterrupt

    checkpoint.save(tmp_path, 1, {}, {"a": 1}, {}, SingleProcess(), None)
    monkeypatch.setattr(checkpoint, "_to_disk", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 2, {}, {"a": 2}, {}, SingleProcess(), None)
    assert checkpoint.newest(tmp_path, SingleProcess()) == tmp_path / "checkpoint-1"


def test_only_the_newest_are_kept(small):
    trained(dataclasses.replace(small, checkpointing_steps=1, checkpoints_total_limit=2))
    assert checkpoint.steps_of(Path(small.output_dir)) == [5, 4]


def test_other_settings_are_refused_with_both_values(two_checkpoints):
    with pytest.raises(CheckpointError, match=r"--learning_rate was 0.01 and is 0.02"):
        trained(dataclasses.replace(two_checkpoints, learning_rate=0.02))


def test_another_number_of_processes_is_refused(two_checkpoints):
    class Pair(SingleProcess):
        num_processes = 2

    with pytest.raises(CheckpointError, match="written by 1 processes and there are 2 now"):
        checkpoint.load(Path(two_checkpoints.output_dir) / "checkpoint-4", Pair())


def test_a_checkpoint_of_another_run_is_refused(two_checkpoints, tmp_path):
    elsewhere = dataclasses.replace(
        two_checkpoints,
        output_dir=str(tmp_path / "other"),
        resume_from_checkpoint=str(Path(two_checkpoints.output_dir) / "checkpoint-2"),
    )
    with pytest.raises(CheckpointError, match="belongs to another run"):
        trained(elsewhere)


def test_a_new_training_in_the_same_folder_keeps_the_old_one(two_checkpoints):
    out = Path(two_checkpoints.output_dir)
    first = card_of(out).run_id
    trained(dataclasses.replace(two_checkpoints, resume_from_checkpoint=None))
    assert card_of(out).run_id != first
    assert (out / "earlier" / first / "checkpoint-4/checkpoint.json").exists()


def test_two_trainings_do_not_share_a_folder(small):
    from atelier_trainer.tracking.runs import held

    with held(Path(small.output_dir)), pytest.raises(OptionError, match="another process works in"):
        trained(small)


def test_plain_values_and_tensors_come_back_as_they_were(tmp_path):
    import math

    import torch

    state = {"a": {1: torch.arange(3), 2: (0.1, None, True)}, "b": [math.inf, "x"], 7: torch.tensor(2.5)}
    checkpoint.save(tmp_path, 3, {"s": 1}, state, {"draw": torch.zeros(2, dtype=torch.uint8)}, SingleProcess(), None)
    read, settings = checkpoint.load(tmp_path / "checkpoint-3", SingleProcess())
    assert settings == {"s": 1}
    assert read.step == 3
    assert torch.equal(read.state["a"][1], torch.arange(3))
    assert read.state["a"][2] == (0.1, None, True)
    assert read.state["b"] == [math.inf, "x"]
    assert read.state[7].item() == 2.5
    assert read.own["draw"].dtype == torch.uint8
