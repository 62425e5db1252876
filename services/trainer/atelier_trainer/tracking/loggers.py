"""Other places for curves and images: TensorBoard and Weights & Biases. Both are Sinks, see runs.py."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from atelier_trainer.config.options import TrainOptions
from atelier_trainer.tracking.runs import Sink


class TensorBoard:
    """Event files that `tensorboard --logdir` reads."""

    def __init__(self, folder: Path) -> None:
        self._writer: Any = SummaryWriter(str(folder))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, image: Image.Image, key: str, step: int) -> None:
        """See Sink."""
        self._writer.add_image(key, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """See Sink."""
        self._writer.close()


class WeightsAndBiases:
    """A W&B run under the id of the MLflow run, so that a training that goes on goes on there as well.

    Its login and mode are W&B's own environment variables.
    """

    def __init__(self, folder: Path, project: str, run_id: str, settings: dict[str, Any]) -> None:
        self._wandb = importlib.import_module("wandb")
        self._run = self._wandb.init(project=project, dir=str(folder), id=run_id, resume="allow", config=settings)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink."""
        self._run.log(dict(values), step=step)

    def image(self, image: Image.Image, key: str, step: int) -> None:
        """See Sink."""
        self._run.log({key: self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        """See Sink."""
        self._run.finish()


def reports(options: TrainOptions, out: Path, run_id: str) -> list[Sink]:
    """The sinks that --report_to names beside MLflow, whose run has this id."""
    sinks: list[Sink] = []
    if options.report_to in ("tensorboard", "all"):
        sinks.append(TensorBoard(out / options.logging_dir))
    if options.report_to in ("wandb", "all"):
        sinks.append(WeightsAndBiases(out, options.experiments_name, run_id, options.resolved()))
    return sinks
