"""Reads settings for another training back from MLflow."""

from __future__ import annotations

from typing import Any

import yaml

from atelier_trainer.config.cli_args import coerce
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.errors import OptionError
from atelier_trainer.tracking.mlflow_client import TrackingClient
from atelier_trainer.tracking.run_folder import RECIPE_FILE

BEST_FILE = "best.yaml"  # an artifact of a search's MLflow run


def read_settings(tracking_uri: str, run_id: str) -> dict[str, Any]:
    """The flags of a training, or those of a search's best trial.

    Raises:
        OptionError: the run holds neither.
        TrackingError: there is no such run, or the server did not answer.
    """
    tracking = TrackingClient(tracking_uri)
    text = tracking.artifact_text(run_id, BEST_FILE) or tracking.artifact_text(run_id, RECIPE_FILE)
    if text is None:
        raise OptionError(f"--from_run {run_id!r} has neither {BEST_FILE} nor {RECIPE_FILE}; give a run of this trainer")
    return coerce(yaml.safe_load(text), TrainOptions, f"--from_run {run_id!r}")
