"""Sinks in addition to MLflow: TensorBoard, and Weights & Biases."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from atelier_trainer.config.options import TrainOptions
from atelier_trainer.tracking.metric_sink import MetricSink


class TensorBoard:
    """Event files that `tensorboard --logdir` reads."""

    def __init__(self, folder: Path) -> None:
        self._writer: Any = SummaryWriter(str(folder))

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def log_image(self, image: Image.Image, key: str, step: int) -> None:
        self._writer.add_image(key, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run under the id of the MLflow run, so that a resumed training resumes it as well.

    Login and mode come from W&B's own environment variables.
    """

    def __init__(self, folder: Path, project: str, run_id: str, params: dict[str, Any]) -> None:
        self._wandb = importlib.import_module("wandb")
        self._run = self._wandb.init(project=project, dir=str(folder), id=run_id, resume="allow", config=params)

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def log_image(self, image: Image.Image, key: str, step: int) -> None:
        self._run.log({key: self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        self._run.finish()


def additional_sinks(options: TrainOptions, folder: Path, run_id: str) -> list[MetricSink]:
    """The sinks that --report_to names in addition to the MLflow run of this id."""
    report_to, sinks = options.tracking.report_to, list[MetricSink]()
    if report_to in ("tensorboard", "all"):
        sinks.append(TensorBoard(folder / options.tracking.logging_dir))
    if report_to in ("wandb", "all"):
        sinks.append(WeightsAndBiases(folder, options.tracking.experiments_name, run_id, options.run_params()))
    return sinks
