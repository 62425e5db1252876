"""One trial: a training in a Ray worker, with its own folder and its own MLflow run below the search's."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.tune
from PIL import Image
from rich.console import Console

from atelier_trainer.config.options import TrainOptions
from atelier_trainer.errors import NotFinite
from atelier_trainer.tracking.active_run import PARENT_TAG
from atelier_trainer.train import RunExtras, train

METRIC, TIME, STATE = "validation_loss", "step", "outcome"
RUNNING, DONE, NOT_FINITE = "running", "done", "not finite"
TRIALS_FOLDER = "trials"


class RaySink:
    """Implements `metric_sink.MetricSink`: reports to Ray Tune at each validation, and the kept weights' loss at the end."""

    def __init__(self) -> None:
        self._latest: dict[str, float] = {}

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._latest.update(values)
        loss = values.get("kept_validation_loss", values.get("validation_loss"))
        if loss is not None:
            state = DONE if "kept_validation_loss" in values else RUNNING
            report: dict[str, Any] = {METRIC: loss, TIME: step, STATE: state}
            ray.tune.report(report | {name: self._latest[name] for name in ("loss", "ema_loss") if name in self._latest})

    def log_image(self, image: Image.Image, key: str, step: int) -> None:
        pass

    def close(self) -> None:
        pass


def run_trial(config: dict[str, Any], *, options: TrainOptions, parent: str) -> None:
    """Trains with the config's values in place of the options' own. A loss that is not finite ends the trial, not the search.

    Args:
        config: flags that Tune chose.
        options: of every trial; `output_dir` is the search's.
        parent: MLflow run of the search.
    """
    trial = ray.tune.get_context().get_trial_id()
    assert trial is not None
    trial_options = options.with_flags(
        **config,
        output_dir=str(Path(options.output.output_dir) / TRIALS_FOLDER / trial),
        run_name=f"trial {trial}",
        resume_from_checkpoint="latest",  # a trial of an interrupted search resumes
    )
    extras = RunExtras(sinks=[RaySink()], tags={PARENT_TAG: parent}, publish=False)
    try:
        train(trial_options, Console(file=io.StringIO()), extras)
    except NotFinite:
        ray.tune.report({METRIC: math.inf, TIME: 0, STATE: NOT_FINITE})
