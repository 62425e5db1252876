"""All settings of one training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from atelier_trainer.config.flag import flags_of
from atelier_trainer.config.option_groups import (
    DEFAULT_STEPS,
    DEFAULT_VALIDATION_STEPS,
    DataOptions,
    HardwareOptions,
    ModelOptions,
    OptimizationOptions,
    OutputOptions,
    StyleOptions,
    TrackingOptions,
    ValidationOptions,
)

LOCAL_FLAGS = ("cache_dir", "output_dir", "logging_dir", "tracking_uri", "resume_from_checkpoint", "local_rank", "hub_token")
PATH_FLAGS = (
    "pretrained_model_name_or_path", "pretrained_vae_model_name_or_path", "single_file_config", "train_data_dir",
    "dataset_name",
)  # fmt: skip
WITHOUT_EFFECT_ON_WEIGHTS = (
    "base_name", "dataloader_num_workers", "checkpointing_steps", "checkpoints_total_limit", "experiments_name", "run_name",
    "tracking_patience_s", "report_to", "register", "export", "push_to_hub", "hub_model_id",
    *flags_of(StyleOptions),
)  # fmt: skip
MAY_CHANGE_ON_RESUME = frozenset((*WITHOUT_EFFECT_ON_WEIGHTS, *LOCAL_FLAGS))


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Every flag, in the groups that --help shows."""

    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    optimization: OptimizationOptions = dataclasses.field(default_factory=OptimizationOptions)
    validation: ValidationOptions = dataclasses.field(default_factory=ValidationOptions)
    hardware: HardwareOptions = dataclasses.field(default_factory=HardwareOptions)
    output: OutputOptions = dataclasses.field(default_factory=OutputOptions)
    style: StyleOptions = dataclasses.field(default_factory=StyleOptions)
    tracking: TrackingOptions = dataclasses.field(default_factory=TrackingOptions)

    @classmethod
    def from_flags(cls, **flags: Any) -> TrainOptions:
        """Raises TypeError where a name is not a flag's."""
        return cls().with_flags(**flags)

    def with_flags(self, **flags: Any) -> TrainOptions:
        """A copy in which these flags have other values.

        Raises:
            TypeError: a name is not a flag's.
        """
        known = flags_of(type(self))
        if unknown := flags.keys() - known.keys():
            raise TypeError(f"not flags of train: {', '.join(sorted(unknown))}")
        groups = {
            group: dataclasses.replace(
                getattr(self, group), **{name: value for name, value in flags.items() if known[name].group == group}
            )
            for group in get_type_hints(type(self))
        }
        return type(self)(**groups)

    def flags(self) -> dict[str, Any]:
        """Every flag's value, in the order of --help."""
        return {name: value for group in dataclasses.asdict(self).values() for name, value in group.items()}

    def step_counts(self, images: int, processes: int) -> tuple[int, int]:
        """Optimizer steps of the whole run, and those between validations."""
        optimization, validation = self.optimization, self.validation
        per_step = optimization.train_batch_size * optimization.gradient_accumulation_steps * processes
        per_epoch = max(1, -(-images // per_step))
        steps = optimization.max_train_steps
        if steps is None:
            epochs = optimization.num_train_epochs
            steps = DEFAULT_STEPS if epochs is None else epochs * per_epoch
        if validation.validation_epochs is not None:
            return steps, validation.validation_epochs * per_epoch
        return steps, validation.validation_steps or DEFAULT_VALIDATION_STEPS

    def run_params(self) -> dict[str, Any]:
        """The flags as parameters of the MLflow run, without this machine's paths."""
        values = {name: value for name, value in self.flags().items() if name not in LOCAL_FLAGS}
        for name in PATH_FLAGS:
            if values[name] is not None and Path(values[name]).expanduser().is_dir():
                values[name] = Path(values[name]).expanduser().resolve().name
        return values

    def recipe(self) -> dict[str, Any]:
        """What another training can start from: `run_params` without those that were folders of this machine."""
        values, flags = self.run_params(), self.flags()
        for name in PATH_FLAGS:
            if values[name] != flags[name] or (name == "train_data_dir" and values[name] is not None):
                del values[name]
        return {name: value for name, value in values.items() if value is not None}

    def changes_since(self, earlier: Mapping[str, Any]) -> list[str]:
        """The settings with an effect on the weights that differ from `earlier`, a `run_params()`."""
        return [
            f"--{name} was {earlier.get(name)!r} and is {value!r}"
            for name, value in self.run_params().items()
            if name not in MAY_CHANGE_ON_RESUME and earlier.get(name) != value
        ]
