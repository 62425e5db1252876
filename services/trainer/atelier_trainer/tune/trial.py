"""One trial: a training in a Ray worker, with its own folder and its own MLflow run below the search's."""

from __future__ import annotations

import dataclasses
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
from atelier_trainer.tracking.runs import PARENT_TAG
from atelier_trainer.train import train

METRIC, TIME = "validation_loss", "step"
TRIALS_FOLDER = "trials"


class RayReport:
    """A Sink, see runs.py: tells Tune at each validation, and of the weights that are kept at the end."""

    def __init__(self) -> None:
        self._latest: dict[str, float] = {}

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink."""
        self._latest.update(values)
        loss = values.get("kept_validation_loss", values.get("validation_loss"))
        if loss is not None:
            outcome = "done" if "kept_validation_loss" in values else "running"
            told: dict[str, Any] = {METRIC: loss, TIME: step, "outcome": outcome}
            ray.tune.report(told | {name: self._latest[name] for name in ("loss", "ema_loss") if name in self._latest})

    def image(self, image: Image.Image, key: str, step: int) -> None:
        """See Sink; images are in MLflow."""

    def close(self) -> None:
        """See Sink."""


def run_trial(config: dict[str, Any], *, options: TrainOptions, parent: str) -> None:
    """Trains with the config's values in place of the options' own. A loss that is not finite ends the trial, not the search.

    Args:
        config: what Tune chose.
        options: of every trial; `output_dir` is the search's.
        parent: MLflow run of the search.
    """
    trial = ray.tune.get_context().get_trial_id()
    assert trial is not None
    chosen = dataclasses.replace(
        options,
        **config,
        output_dir=str(Path(options.output_dir) / TRIALS_FOLDER / trial),
        run_name=f"trial {trial}",
        resume_from_checkpoint="latest",  # a trial of an interrupted search goes on where it was
    )
    report = RayReport()
    try:
        train(chosen, Console(file=io.StringIO()), sinks=[report], tags={PARENT_TAG: parent}, hand_over=False)
    except NotFinite:
        ray.tune.report({METRIC: math.inf, TIME: 0, "outcome": "not finite"})
