"""The flags of `tune` in addition to those of `train`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

from atelier_trainer.config.flag import flag
from atelier_trainer.errors import OptionError


@dataclasses.dataclass(frozen=True)
class TuneOptions:
    space: str | None = flag(None, "YAML file of the search space; learning_rate x train_batch_size by default")
    search: Literal["grid", "random", "optuna"] = flag("grid", "all combinations, random ones, or ones that Optuna suggests")
    samples: int = flag(1, "number of trials; with grid, how often to try each combination")
    trial_scheduler: Literal["fifo", "asha"] = flag("fifo", "asha stops trials whose validation loss falls behind")
    gpus_per_trial: float = flag(1.0, "GPUs per trial, fractions too; CPUs where there is no GPU")
    cpus_per_trial: float = flag(1.0, "CPUs per trial")
    max_concurrent_trials: int | None = flag(None, "trials at a time; as many as fit by default")
    ray_address: str | None = flag(None, "Ray cluster, for example 10.0.0.5:6379; a local one by default")

    def check(self) -> None:
        """Raises OptionError with every rule that the options break."""
        problems = list(self._problems())
        if problems:
            raise OptionError("; ".join(problems))

    def _problems(self) -> Iterator[str]:
        for name in ("samples", "max_concurrent_trials"):
            if (value := getattr(self, name)) is not None and value < 1:
                yield f"--{name} must be 1 or more; received {value}"
        if not 0 <= self.gpus_per_trial < math.inf:
            yield f"--gpus_per_trial must be 0 or more; received {self.gpus_per_trial}"
        if self.gpus_per_trial > 1 and self.gpus_per_trial % 1:
            yield f"--gpus_per_trial above 1 must be whole; received {self.gpus_per_trial}"
        if not 0 < self.cpus_per_trial < math.inf:
            yield f"--cpus_per_trial must be greater than 0; received {self.cpus_per_trial}"
        if self.search != "grid" and self.space is None and self.samples == 1:
            yield f"--search {self.search} needs the number of trials in --samples; received 1"
