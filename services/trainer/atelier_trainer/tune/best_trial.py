"""Settings that another training can start from, read back from MLflow."""

from __future__ import annotations

from typing import Any

import yaml

from atelier_trainer.config.cli_args import coerce
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.errors import OptionError
from atelier_trainer.export.publish import RECIPE_FILE
from atelier_trainer.tracking.mlflow_runs import Tracking

WINNER_FILE = "winner.yaml"


def settings_of(tracking_uri: str, run_id: str) -> dict[str, Any]:
    """The winner's settings of a search, or the settings of a training.

    Raises:
        OptionError: the run holds neither.
        TrackingError: there is no such run, or the server did not answer.
    """
    tracking = Tracking(tracking_uri)
    text = tracking.artifact_text(run_id, WINNER_FILE) or tracking.artifact_text(run_id, RECIPE_FILE)
    if text is None:
        raise OptionError(f"--from_run {run_id!r} has neither {WINNER_FILE} nor {RECIPE_FILE}; give a run of this trainer")
    return coerce(yaml.safe_load(text), TrainOptions, f"--from_run {run_id!r}")
