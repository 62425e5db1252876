"""Flags that make no sense are refused before any work, all at once; recipes are read as the command line is."""

import dataclasses
import shlex

import pytest
from atelier_trainer.__main__ import _parser, main
from atelier_trainer.config.cli_args import build, given, read_recipe
from atelier_trainer.config.hardware import resolve
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.errors import OptionError
from atelier_trainer.tune.options import TuneOptions

from .walk_through import TRAIN, TUNE

LEGAL = TrainOptions(train_data_dir="images", tracking_uri="http://127.0.0.1:5000")
OF_DIFFUSERS = shlex.split("""
    revision variant dataset_config_name train_data_dir image_column caption_column max_train_samples cache_dir scale_lr
    snr_gamma use_8bit_adam allow_tf32 adam_beta1 adam_beta2 adam_weight_decay adam_epsilon max_grad_norm push_to_hub hub_token
    hub_model_id logging_dir report_to checkpoints_total_limit resume_from_checkpoint local_rank noise_offset
    gradient_checkpointing prediction_type rank
""")


def changed(**values) -> TrainOptions:
    return dataclasses.replace(LEGAL, **values)


def parsed(*arguments: str) -> TrainOptions:
    return build(TrainOptions, given(_parser().parse_args(["train", *arguments]), TrainOptions), {})


def test_defaults_with_data_and_a_server_are_legal():
    LEGAL.check()


def test_the_walk_throughs_flags_are_all_there():
    fields = {field.name for field in dataclasses.fields(TrainOptions)}
    assert set(OF_DIFFUSERS) <= fields
    options = dataclasses.replace(parsed(*TRAIN), tracking_uri="http://tracking")
    options.check()
    assert (options.num_train_epochs, options.validation_epochs, options.checkpointing_steps) == (10, 1, 5000)
    tune = _parser().parse_args(["tune", *TUNE[1:]])
    assert build(TuneOptions, given(tune, TuneOptions), {}).gpus_per_trial == 1.0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train_data_dir": None}, "exactly one of --train_data_dir and --dataset_name"),
        ({"dataset_name": "zoheb/sketch-scene"}, "exactly one of"),
        ({"rank": 0}, "--rank must be 1 or more; received 0"),
        ({"max_train_steps": -3}, "received -3"),
        ({"learning_rate": 0.0}, "--learning_rate must be greater than 0; received 0.0"),
        ({"learning_rate": float("nan")}, "received nan"),
        ({"adam_beta1": 1.0}, "--adam_beta1 must be from 0 to below 1; received 1.0"),
        ({"snr_gamma": -1.0}, "--snr_gamma must be greater than 0; received -1.0"),
        ({"noise_offset": float("inf")}, "--noise_offset must be 0 or more; received inf"),
        ({"width": 250}, "--width must be a multiple of 8 px; received 250: take 248 or 256"),
        ({"height": -8}, "--height must be a multiple of 8 px; received -8"),
        ({"tracking_uri": None}, "MLFLOW_TRACKING_URI"),
        ({"validation_steps": 5, "validation_epochs": 1}, "one of --validation_steps and --validation_epochs"),
        ({"lr_scheduler": "constant", "lr_warmup_steps": 5}, "take constant_with_warmup"),
        ({"hub_token": "hf_x"}, "set HF_TOKEN in the environment"),
        ({"hub_model_id": "me/x"}, "--hub_model_id belongs to --push_to_hub"),
        ({"dataset_config_name": "a"}, "--dataset_config_name belongs to --dataset_name"),
        ({"lora_targets": " , "}, "--lora_targets must name at least one ending"),
        ({"local_rank": 3}, "--local_rank is set by accelerate launch; received 3"),
        ({"use_8bit_adam": True}, "--use_8bit_adam needs the package bitsandbytes, which is not installed"),
        ({"report_to": "wandb"}, "--report_to wandb needs the package wandb"),
    ],
)
def test_a_senseless_flag_is_refused_with_its_value(values, said):
    with pytest.raises(OptionError) as refusal:
        changed(**values).check()
    assert said in str(refusal.value)


def test_a_token_is_not_repeated_in_the_message():
    with pytest.raises(OptionError) as refusal:
        changed(hub_token="hf_secret").check()
    assert "hf_secret" not in str(refusal.value)


def test_all_problems_come_in_one_message():
    with pytest.raises(OptionError) as refusal:
        changed(rank=0, width=3, tracking_uri=None).check()
    assert all(part in str(refusal.value) for part in ("--rank", "--width", "--tracking_uri"))


def test_flags_are_spelt_with_dashes_or_underscores_and_fall_back_to_the_environment():
    arguments = ["train", "--train-data-dir=a", "--max_train_steps=7", "--random-flip", "--mixed_precision=bf16"]
    options = build(
        TrainOptions, given(_parser().parse_args(arguments), TrainOptions), {"MLFLOW_TRACKING_URI": "http://tracking"}
    )
    assert (options.train_data_dir, options.max_train_steps, options.random_flip) == ("a", 7, True)
    assert (options.mixed_precision, options.tracking_uri) == ("bf16", "http://tracking")


def test_a_recipe_holds_flags_and_numbers_as_people_write_them(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("learning_rate: 3e-4\nrank: 16\nrandom-flip: true\nmixed_precision: no\nsnr_gamma: null\n")
    assert read_recipe(file, TrainOptions) == {
        "learning_rate": 3e-4,
        "rank": 16,
        "random_flip": True,
        "mixed_precision": "no",
        "snr_gamma": None,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lerning_rate: 1e-4", "'lerning_rate' is no flag: did you mean 'learning_rate'?"),
        ("rank: many", "rank: must be int; received 'many'"),
        ("rank: 2.5", "rank: must be int; received 2.5"),
        ("random_flip: 1", "random_flip: must be true or false; received 1"),
        ("lr_scheduler: steps", "lr_scheduler: must be one of constant"),
        ("- a", "must hold flags as `name: value` lines; received list"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_recipe_that_is_wrong_says_where(tmp_path, text, said):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(OptionError) as refusal:
        read_recipe(tmp_path / "r.yaml", TrainOptions)
    assert said in str(refusal.value)


def test_the_command_line_wins_over_the_recipe(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    (tmp_path / "r.yaml").write_text("rank: 0\ntrain_data_dir: x\nwidth: 3\n")
    assert main(["train", f"--recipe={tmp_path / 'r.yaml'}", "--rank=4"]) == 2
    said = capsys.readouterr().err
    assert "--width must be" in said
    assert "--rank" not in said


@pytest.mark.parametrize(
    ("values", "rows", "processes", "steps"),
    [
        ({}, 100, 1, (1000, 250)),
        ({"num_train_epochs": 3}, 100, 1, (75, 250)),
        ({"num_train_epochs": 3, "validation_epochs": 1}, 101, 2, (39, 13)),
        ({"num_train_epochs": 3, "max_train_steps": 5}, 100, 1, (5, 250)),
        ({"validation_steps": 7}, 100, 1, (1000, 7)),
    ],
)
def test_epochs_become_steps(values, rows, processes, steps):
    assert changed(**values).steps(rows, processes) == steps


def test_without_a_gpu_each_thing_asked_for_is_done_another_way_with_one_warning():
    machine = resolve(
        changed(enable_xformers_memory_efficient_attention=True, allow_tf32=True), {"ACCELERATE_MIXED_PRECISION": "fp16"}
    )
    assert machine.precision in ("bf16", "no")
    assert not machine.xformers
    assert [warning.split()[0] for warning in machine.warnings] == ["mixed_precision", "xformers", "allow_tf32"]
    assert resolve(changed(mixed_precision="no"), {"ACCELERATE_MIXED_PRECISION": "fp16"}).warnings == ()


def test_logged_settings_hold_no_path_of_this_machine(tmp_path):
    folder = tmp_path / "my-base"
    folder.mkdir()
    options = changed(pretrained_model_name_or_path=str(folder), train_data_dir=str(tmp_path), output_dir=str(tmp_path))
    assert options.resolved()["pretrained_model_name_or_path"] == "my-base"
    assert str(tmp_path) not in str(options.resolved())
    assert "pretrained_model_name_or_path" not in options.recipe()
    assert options.recipe()["rank"] == 8


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gpus_per_trial": 1.5}, "--gpus_per_trial above 1 must be whole; received 1.5"),
        ({"gpus_per_trial": -1.0}, "--gpus_per_trial must be 0 or more"),
        ({"samples": 0}, "--samples must be 1 or more; received 0"),
        ({"search": "optuna"}, "--search optuna draws --samples trials; received 1"),
    ],
)
def test_a_senseless_search_is_refused(values, said):
    with pytest.raises(OptionError) as refusal:
        TuneOptions(**values).check()
    assert said in str(refusal.value)


def test_the_command_ends_with_one_line_and_exit_code_2(capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["train", "--rank=0"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "--rank must be 1 or more" in said
    assert "Traceback" not in said


def test_help_groups_the_flags(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert all(f"\n{title}:" in said for title in ("base", "data", "lora", "optimizer", "validation", "machine", "reporting"))


def test_dataset_refuses_a_folder_that_holds_something(tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("mine")
    assert main(["dataset", str(tmp_path), "--count", "2"]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("arguments", [["--random"], ["--architecture=sd21"]])
def test_random_goes_with_a_full_size_architecture(tmp_path, capsys, arguments):
    assert main(["base", str(tmp_path / "x"), *arguments]) == 2
    assert "--random goes with --architecture sd15 or sd21" in capsys.readouterr().err
