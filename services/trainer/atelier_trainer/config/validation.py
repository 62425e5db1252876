"""Checks of the options before any work starts: one sentence per flag, with its value and the remedy."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from atelier_trainer.config.options import TrainOptions
from atelier_trainer.errors import OptionError

AT_LEAST_ONE = (
    "rank", "train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_train_steps", "validation_steps",
    "validation_epochs", "validation_samples", "num_validation_images", "max_train_samples", "checkpointing_steps",
    "checkpoints_total_limit",
)  # fmt: skip
AT_LEAST_ZERO = (
    "lr_warmup_steps", "seed", "random_crops", "dataloader_num_workers", "adam_weight_decay", "noise_offset",
    "tracking_patience_s",
)  # fmt: skip
ABOVE_ZERO = ("learning_rate", "max_grad_norm", "adam_epsilon", "alpha", "snr_gamma")
SHARES = ("adam_beta1", "adam_beta2", "caption_dropout", "lora_dropout")


def check(options: TrainOptions) -> None:
    """Raises OptionError with every rule that the options break."""
    problems = [*_ranges(options.flags()), *_sizes(options), *_combinations(options), *_packages(options)]
    if problems:
        raise OptionError("; ".join(problems))


def _ranges(flags: Mapping[str, Any]) -> Iterator[str]:
    for name in AT_LEAST_ONE:
        if (value := flags[name]) is not None and value < 1:
            yield f"--{name} must be 1 or more; received {value}"
    for name in AT_LEAST_ZERO:
        if not 0 <= (value := flags[name]) < math.inf:
            yield f"--{name} must be 0 or more; received {value}"
    for name in ABOVE_ZERO:
        if (value := flags[name]) is not None and not 0 < value < math.inf:
            yield f"--{name} must be greater than 0; received {value}"
    for name in SHARES:
        if not 0 <= (value := flags[name]) < 1:
            yield f"--{name} must be at least 0 and below 1; received {value}"


def _sizes(options: TrainOptions) -> Iterator[str]:
    for name, value in (("width", options.data.width), ("height", options.data.height)):
        if value is not None and (value <= 0 or value % 8):
            below = max(8, value // 8 * 8)
            yield f"--{name} must be a multiple of 8 px; received {value}: use {below} or {below + 8}"


def _combinations(options: TrainOptions) -> Iterator[str]:
    data, optimization, validation, output = options.data, options.optimization, options.validation, options.output
    if (data.train_data_dir is None) == (data.dataset_name is None):
        yield (
            "give exactly one of --train_data_dir and --dataset_name; "
            f"received {data.train_data_dir!r} and {data.dataset_name!r}"
        )
    if data.dataset_config_name is not None and data.dataset_name is None:
        yield f"--dataset_config_name needs --dataset_name; received {data.dataset_config_name!r} without it"
    if validation.validation_steps is not None and validation.validation_epochs is not None:
        yield (
            "give at most one of --validation_steps and --validation_epochs; "
            f"received {validation.validation_steps} and {validation.validation_epochs}"
        )
    if optimization.lr_scheduler == "constant" and optimization.lr_warmup_steps:
        yield (
            f"--lr_scheduler constant has no warm-up; received --lr_warmup_steps {optimization.lr_warmup_steps}: "
            "use constant_with_warmup"
        )
    if not options.model.targets:
        yield f"--lora_targets must name at least one layer ending; received {options.model.lora_targets!r}"
    if options.tracking.tracking_uri is None:
        yield "--tracking_uri or MLFLOW_TRACKING_URI must name the MLflow server, for example http://127.0.0.1:5000"
    try:
        options.style.to_style()
    except OptionError as error:
        yield str(error)
    if output.hub_token is not None:
        yield "--hub_token is not accepted because other users can read a process's arguments; set HF_TOKEN in the environment"
    if output.hub_model_id is not None and not output.push_to_hub:
        yield f"--hub_model_id needs --push_to_hub; received {output.hub_model_id!r} without it"
    launched_rank = int(os.environ.get("LOCAL_RANK", "-1"))
    if options.hardware.local_rank not in (-1, launched_rank):
        yield (
            f"--local_rank is set by accelerate launch; received {options.hardware.local_rank}, but LOCAL_RANK is "
            f"{launched_rank}: remove the flag and start with accelerate launch"
        )


def _packages(options: TrainOptions) -> Iterator[str]:
    report_to = options.tracking.report_to
    for package, needed, flag, extra in (
        ("bitsandbytes", options.optimization.use_8bit_adam, "--use_8bit_adam", "trainer-gpu"),
        ("wandb", report_to in ("wandb", "all"), f"--report_to {report_to}", "trainer-wandb"),
    ):
        if needed and importlib.util.find_spec(package) is None:
            yield f"{flag} needs the package {package}, which is not installed: pip install 'atelier[{extra}]'"
