"""The flags of `tune` beside those of `train`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

from atelier_trainer.config.options import flag
from atelier_trainer.errors import OptionError


@dataclasses.dataclass(frozen=True)
class TuneOptions:
    """One search, complete but for what each trial trains."""

    space: str | None = flag(None, "search", "YAML file of what is searched; learning_rate x train_batch_size by default")
    search: Literal["grid", "random", "optuna"] = flag("grid", "search", "every combination, drawn at random, or led by Optuna")
    samples: int = flag(1, "search", "trials to draw; with grid, times that every combination is tried")
    trial_scheduler: Literal["fifo", "asha"] = flag("fifo", "search", "asha stops trials whose validation loss lies behind")
    gpus_per_trial: float = flag(1.0, "search", "GPUs per trial, fractions too; CPUs where there is no GPU")
    cpus_per_trial: float = flag(1.0, "search", "CPUs per trial")
    max_concurrent_trials: int | None = flag(None, "search", "trials at a time; as many as fit by default")
    ray_address: str | None = flag(None, "search", "Ray cluster, for example 10.0.0.5:6379; one of its own by default")

    def check(self) -> None:
        """Refuses what makes no sense, before any work starts.

        Raises:
            OptionError: names every such flag with its value.
        """
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
            yield f"--search {self.search} draws --samples trials; received 1: give the number to try"
