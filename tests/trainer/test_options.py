"""Flags that make no sense are refused before any work, all at once."""

import argparse
import dataclasses

import pytest
from atelier_trainer.__main__ import main
from atelier_trainer.errors import OptionError
from atelier_trainer.options import TrainOptions, add_flags, from_arguments

LEGAL = TrainOptions(train_data_dir="pictures", tracking_uri="http://127.0.0.1:5000")


def changed(**values) -> TrainOptions:
    return dataclasses.replace(LEGAL, **values)


def test_defaults_with_data_and_a_server_are_legal():
    LEGAL.check()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train_data_dir": None}, "exactly one of --train_data_dir and --dataset_name"),
        ({"dataset_name": "zoheb/sketch-scene"}, "exactly one of"),
        ({"rank": 0}, "--rank must be 1 or more; received 0"),
        ({"max_train_steps": -3}, "received -3"),
        ({"learning_rate": 0.0}, "--learning_rate must be greater than 0; received 0.0"),
        ({"learning_rate": float("nan")}, "received nan"),
        ({"width": 250}, "--width must be a multiple of 8 px; received 250: take 248 or 256"),
        ({"height": -8}, "--height must be a multiple of 8 px; received -8"),
        ({"tracking_uri": None}, "MLFLOW_TRACKING_URI"),
    ],
)
def test_a_senseless_flag_is_refused_with_its_value(values, said):
    with pytest.raises(OptionError, match=said.replace("(", r"\(")):
        changed(**values).check()


def test_all_problems_come_in_one_message():
    with pytest.raises(OptionError) as refusal:
        changed(rank=0, width=3, tracking_uri=None).check()
    assert all(part in str(refusal.value) for part in ("--rank", "--width", "--tracking_uri"))


def test_flags_are_spelt_with_dashes_or_underscores_and_fall_back_to_the_environment():
    parser = argparse.ArgumentParser()
    add_flags(parser)
    parsed = parser.parse_args(["--train-data-dir=a", "--max_train_steps=7", "--random-flip", "--mixed_precision=bf16"])
    options = from_arguments(parsed, {"MLFLOW_TRACKING_URI": "http://tracking"})
    assert (options.train_data_dir, options.max_train_steps, options.random_flip) == ("a", 7, True)
    assert (options.mixed_precision, options.tracking_uri) == ("bf16", "http://tracking")


def test_logged_settings_hold_no_path_of_this_machine(tmp_path):
    folder = tmp_path / "my-base"
    folder.mkdir()
    logged = changed(
        pretrained_model_name_or_path=str(folder), train_data_dir=str(tmp_path), output_dir=str(tmp_path)
    ).resolved()
    assert logged["pretrained_model_name_or_path"] == "my-base"
    assert str(tmp_path) not in str(logged)


def test_the_command_ends_with_one_line_and_exit_code_2(capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["train", "--rank=0"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "--rank must be 1 or more" in said
    assert "Traceback" not in said


def test_dataset_refuses_a_folder_that_holds_something(tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("mine")
    assert main(["dataset", str(tmp_path), "--count", "2"]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]
