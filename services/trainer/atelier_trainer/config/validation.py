"""What is wrong with a set of options, told before any work starts: one sentence per flag, with its value and what to do."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atelier_trainer.config.options import TrainOptions

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


def problems(options: TrainOptions) -> Iterator[str]:
    """Every rule that the options break."""
    yield from _ranges(options)
    yield from _sizes(options)
    yield from _combinations(options)
    yield from _packages(options)


def _ranges(options: TrainOptions) -> Iterator[str]:
    for name in AT_LEAST_ONE:
        if (value := getattr(options, name)) is not None and value < 1:
            yield f"--{name} must be 1 or more; received {value}"
    for name in AT_LEAST_ZERO:
        if not 0 <= (value := getattr(options, name)) < math.inf:
            yield f"--{name} must be 0 or more; received {value}"
    for name in ABOVE_ZERO:
        if (value := getattr(options, name)) is not None and not 0 < value < math.inf:
            yield f"--{name} must be greater than 0; received {value}"
    for name in SHARES:
        if not 0 <= (value := getattr(options, name)) < 1:
            yield f"--{name} must be from 0 to below 1; received {value}"


def _sizes(options: TrainOptions) -> Iterator[str]:
    for name in ("width", "height"):
        if (value := getattr(options, name)) is not None and (value <= 0 or value % 8):
            below = max(8, value // 8 * 8)
            yield f"--{name} must be a multiple of 8 px; received {value}: take {below} or {below + 8}"


def _combinations(options: TrainOptions) -> Iterator[str]:
    if (options.train_data_dir is None) == (options.dataset_name is None):
        yield (
            "exactly one of --train_data_dir and --dataset_name is needed; "
            f"received {options.train_data_dir!r} and {options.dataset_name!r}"
        )
    if options.dataset_config_name is not None and options.dataset_name is None:
        yield f"--dataset_config_name belongs to --dataset_name; received {options.dataset_config_name!r} without it"
    if options.validation_steps is not None and options.validation_epochs is not None:
        yield (
            "one of --validation_steps and --validation_epochs at most; "
            f"received {options.validation_steps} and {options.validation_epochs}"
        )
    if options.lr_scheduler == "constant" and options.lr_warmup_steps:
        yield (
            f"--lr_scheduler constant has no warm-up; received --lr_warmup_steps {options.lr_warmup_steps}: "
            "take constant_with_warmup"
        )
    if not options.targets:
        yield f"--lora_targets must name at least one ending; received {options.lora_targets!r}"
    if options.tracking_uri is None:
        yield "--tracking_uri or MLFLOW_TRACKING_URI must name the MLflow server, for example http://127.0.0.1:5000"
    if options.hub_token is not None:
        yield "--hub_token is not taken, because process arguments can be read by others; set HF_TOKEN in the environment"
    if options.hub_model_id is not None and not options.push_to_hub:
        yield f"--hub_model_id belongs to --push_to_hub; received {options.hub_model_id!r} without it"
    launched = int(os.environ.get("LOCAL_RANK", "-1"))
    if options.local_rank not in (-1, launched):
        yield (
            f"--local_rank is set by accelerate launch; received {options.local_rank} while the launcher says {launched}: "
            "leave it out and start with accelerate launch"
        )


def _packages(options: TrainOptions) -> Iterator[str]:
    wanted = {
        "bitsandbytes": (options.use_8bit_adam, "--use_8bit_adam", "trainer-gpu"),
        "wandb": (options.report_to in ("wandb", "all"), f"--report_to {options.report_to}", "trainer-wandb"),
    }
    for package, (asked, flag, extra) in wanted.items():
        if asked and importlib.util.find_spec(package) is None:
            yield f"{flag} needs the package {package}, which is not installed: pip install 'atelier[{extra}]'"
