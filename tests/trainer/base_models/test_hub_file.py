"""What people see when the Hugging Face hub does not answer; a hub id goes through three requests of different kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
from atelier_trainer.__main__ import main

ROOT = Path(__file__).parents[3]
TINY = ROOT / "models/tiny-sd"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["import", "nobody/nothing", f"--base={TINY}", "--dry_run"], "'nobody/nothing' is neither a file nor on the hub"),
        (
            ["import", "x", "--base=nobody/nothing", "--dry_run"],
            "base model 'nobody/nothing' is neither a folder nor on the hub",
        ),
        (
            ["train", f"--train_data_dir={TINY}", "--tracking_uri=http://127.0.0.1:9", "--push_to_hub"],
            "--push_to_hub needs a login and the network",
        ),
    ],
)
def test_a_hub_that_does_not_answer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str], message: str
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert main(command) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.startswith(f"error: {message}") for line in shown.err.strip().splitlines()] == [True], shown.err
