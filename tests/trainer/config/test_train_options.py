"""Flags: where they come from, how they are checked, and what MLflow and recipes get of them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from atelier_contracts.styles import Recommended, Style
from atelier_trainer.__main__ import _parser, main
from atelier_trainer.config.cli_args import given_flags, read_recipe
from atelier_trainer.config.flag import flags_of
from atelier_trainer.config.hardware import resolve
from atelier_trainer.config.option_groups import HardwareOptions
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.config.validation import check
from atelier_trainer.errors import OptionError
from atelier_trainer.tune.options import TuneOptions

from ..diffusers_commands import TRAIN, TUNE

VALID = TrainOptions.from_flags(train_data_dir="images", tracking_uri="http://127.0.0.1:5000")
OF_DIFFUSERS = shlex.split("""
    revision variant dataset_config_name train_data_dir image_column caption_column max_train_samples cache_dir scale_lr
    snr_gamma use_8bit_adam allow_tf32 adam_beta1 adam_beta2 adam_weight_decay adam_epsilon max_grad_norm push_to_hub hub_token
    hub_model_id logging_dir report_to checkpoints_total_limit resume_from_checkpoint local_rank noise_offset
    gradient_checkpointing prediction_type rank
""")


def parsed(*arguments: str) -> TrainOptions:
    return TrainOptions.from_flags(**given_flags(_parser().parse_args(["train", *arguments]), TrainOptions))


def problems_of(options: TrainOptions) -> str:
    with pytest.raises(OptionError) as error:
        check(options)
    return str(error.value)


def test_the_defaults_are_valid_with_data_and_a_server() -> None:
    check(VALID)


def test_flags_of_diffusers_scripts_are_accepted() -> None:
    assert set(OF_DIFFUSERS) <= flags_of(TrainOptions).keys()
    options = parsed(*TRAIN).with_flags(tracking_uri="http://tracking")
    check(options)
    assert options.optimization.num_train_epochs == 10
    assert (options.validation.validation_epochs, options.output.checkpointing_steps) == (1, 5000)
    tune = _parser().parse_args(["tune", *TUNE[1:]])
    assert TuneOptions(**given_flags(tune, TuneOptions)).gpus_per_trial == 1.0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"train_data_dir": None}, "exactly one of --train_data_dir and --dataset_name"),
        ({"dataset_name": "zoheb/sketch-scene"}, "exactly one of"),
        ({"rank": 0}, "--rank must be 1 or more; received 0"),
        ({"max_train_steps": -3}, "received -3"),
        ({"learning_rate": 0.0}, "--learning_rate must be greater than 0; received 0.0"),
        ({"learning_rate": float("nan")}, "received nan"),
        ({"adam_beta1": 1.0}, "--adam_beta1 must be at least 0 and below 1; received 1.0"),
        ({"snr_gamma": -1.0}, "--snr_gamma must be greater than 0; received -1.0"),
        ({"noise_offset": float("inf")}, "--noise_offset must be 0 or more; received inf"),
        ({"width": 250}, "--width must be a multiple of 8 px; received 250: use 248 or 256"),
        ({"height": -8}, "--height must be a multiple of 8 px; received -8"),
        ({"tracking_uri": None}, "MLFLOW_TRACKING_URI"),
        ({"validation_steps": 5, "validation_epochs": 1}, "at most one of --validation_steps and --validation_epochs"),
        ({"lr_scheduler": "constant", "lr_warmup_steps": 5}, "use constant_with_warmup"),
        ({"hub_token": "hf_x"}, "set HF_TOKEN in the environment"),
        ({"hub_model_id": "me/x"}, "--hub_model_id needs --push_to_hub"),
        ({"title": "x" * 300}, "--title: String should have at most 200 characters; received 'xxx"),
        ({"tags": ",".join("ab" * 50)}, "--tags: Tuple should have at most 50 items"),
        ({"recommended_steps": 151}, "--recommended_steps: Input should be less than or equal to 150; received 151"),
        ({"recommended_scale": 5.0}, "--recommended_scale: Input should be less than or equal to 4; received 5.0"),
        ({"recommended_guidance": float("nan")}, "--recommended_guidance: Input should be a finite number; received nan"),
        ({"dataset_config_name": "a"}, "--dataset_config_name needs --dataset_name"),
        ({"lora_targets": " , "}, "--lora_targets must name at least one layer ending"),
        ({"local_rank": 3}, "--local_rank is set by accelerate launch; received 3"),
        ({"use_8bit_adam": True}, "--use_8bit_adam needs the package bitsandbytes, which is not installed"),
        ({"report_to": "wandb"}, "--report_to wandb needs the package wandb"),
    ],
)
def test_an_invalid_flag_is_refused_with_its_value(flags: dict[str, Any], message: str) -> None:
    assert message in problems_of(VALID.with_flags(**flags))


def test_the_style_has_what_its_flags_say() -> None:
    options = parsed(
        "--title=Ink", "--tags=wash, paper", "--trigger-words=sumi", "--recommended_steps=12", "--recommended-scale=0.5",
        "--recommended_scheduler=ddim", "--recommended_guidance=3",
    )  # fmt: skip
    recommended = Recommended(steps=12, scale=0.5, scheduler="ddim", guidance_scale=3.0)
    expected = Style(title="Ink", tags=("wash", "paper"), trigger_words=("sumi",), recommended=recommended)
    assert options.style.to_style() == expected


def test_a_token_is_not_repeated_in_the_message() -> None:
    assert "hf_secret" not in problems_of(VALID.with_flags(hub_token="hf_secret"))


def test_all_problems_are_reported_together() -> None:
    message = problems_of(VALID.with_flags(rank=0, width=3, tracking_uri=None))
    assert all(flag in message for flag in ("--rank", "--width", "--tracking_uri"))


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(TypeError, match="not flags of train: lerning_rate"):
        VALID.with_flags(lerning_rate=1.0)


def test_flags_are_spelt_with_dashes_or_underscores() -> None:
    options = parsed("--train-data-dir=a", "--max_train_steps=7", "--random-flip", "--mixed_precision=bf16")
    assert (options.data.train_data_dir, options.optimization.max_train_steps) == ("a", 7)
    assert (options.data.random_flip, options.hardware.mixed_precision) == (True, "bf16")


def test_a_recipe_holds_flags_and_numbers_as_people_write_them(tmp_path: Path) -> None:
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
    ("text", "message"),
    [
        ("lerning_rate: 1e-4", "'lerning_rate' is not a flag; did you mean 'learning_rate'?"),
        ("rank: many", "rank: must be int; received 'many'"),
        ("rank: 2.5", "rank: must be int; received 2.5"),
        ("random_flip: 1", "random_flip: must be true or false; received 1"),
        ("lr_scheduler: steps", "lr_scheduler: must be one of constant"),
        ("- a", "must hold flags as `name: value` lines; received list"),
        ("a: [", "cannot be read"),
    ],
)
def test_an_invalid_recipe_is_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(OptionError) as error:
        read_recipe(tmp_path / "r.yaml", TrainOptions)
    assert message in str(error.value)


def test_the_command_line_wins_over_the_recipe_and_the_server_comes_from_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    (tmp_path / "r.yaml").write_text("rank: 0\ntrain_data_dir: x\nwidth: 3\n")
    assert main(["train", f"--recipe={tmp_path / 'r.yaml'}", "--rank=4"]) == 2
    message = capsys.readouterr().err
    assert "--width must be" in message
    assert "--rank" not in message
    assert "--tracking_uri" not in message


@pytest.mark.parametrize(
    ("flags", "images", "processes", "steps"),
    [
        ({}, 100, 1, (1000, 250)),
        ({"num_train_epochs": 3}, 100, 1, (75, 250)),
        ({"num_train_epochs": 3, "validation_epochs": 1}, 101, 2, (39, 13)),
        ({"num_train_epochs": 3, "max_train_steps": 5}, 100, 1, (5, 250)),
        ({"validation_steps": 7}, 100, 1, (1000, 7)),
    ],
)
def test_epochs_are_converted_to_steps(flags: dict[str, int], images: int, processes: int, steps: tuple[int, int]) -> None:
    assert VALID.with_flags(**flags).step_counts(images, processes) == steps


def test_without_a_gpu_each_unsupported_option_has_a_fallback_and_one_warning() -> None:
    options = HardwareOptions(enable_xformers_memory_efficient_attention=True, allow_tf32=True)
    hardware = resolve(options, {"ACCELERATE_MIXED_PRECISION": "fp16"})
    assert hardware.precision in ("bf16", "no")
    assert not hardware.xformers
    assert [warning.split()[0] for warning in hardware.warnings] == ["mixed_precision", "xformers", "allow_tf32"]
    assert resolve(HardwareOptions(mixed_precision="no"), {"ACCELERATE_MIXED_PRECISION": "fp16"}).warnings == ()


def test_run_params_and_recipe_hold_no_path_of_this_machine(tmp_path: Path) -> None:
    folder = tmp_path / "my-base"
    folder.mkdir()
    options = VALID.with_flags(
        pretrained_model_name_or_path=str(folder), train_data_dir=str(tmp_path), output_dir=str(tmp_path)
    )
    assert options.run_params()["pretrained_model_name_or_path"] == "my-base"
    assert str(tmp_path) not in str(options.run_params())
    assert "pretrained_model_name_or_path" not in options.recipe()
    assert options.recipe()["rank"] == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gpus_per_trial": 1.5}, "--gpus_per_trial above 1 must be whole; received 1.5"),
        ({"gpus_per_trial": -1.0}, "--gpus_per_trial must be 0 or more"),
        ({"samples": 0}, "--samples must be 1 or more; received 0"),
        ({"search": "optuna"}, "--search optuna needs the number of trials in --samples; received 1"),
    ],
)
def test_an_invalid_search_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        TuneOptions(**values).check()
    assert message in str(error.value)


def test_the_command_ends_with_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["train", "--rank=0"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "--rank must be 1 or more" in message
    assert "Traceback" not in message


def test_help_groups_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    titles = re.findall(r"^(\w+):$", capsys.readouterr().out, re.M)
    assert titles[-8:] == ["model", "data", "optimization", "validation", "hardware", "output", "style", "tracking"]


def test_dataset_refuses_a_folder_that_is_not_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    assert main(["dataset", str(tmp_path), "--count", "2"]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("arguments", [["--random"], ["--architecture=sd21"]])
def test_a_full_size_architecture_needs_random_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(["base", str(tmp_path / "x"), *arguments]) == 2
    assert "--random needs --architecture sd15, sd21 or sdxl" in capsys.readouterr().err
