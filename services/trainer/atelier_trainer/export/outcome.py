"""outcome.json: what a finished training measured, and whether MLflow has its adapter."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from atelier_trainer.errors import OptionError
from atelier_trainer.tracking.run_folder import write_json

OUTCOME_FILE = "outcome.json"


@dataclass(frozen=True)
class Losses:
    """What a training measured.

    Attributes:
        step: optimizer step of the weights that were kept.
        validation_loss: of these weights, in float32.
        base_validation_loss: without the adapter.
        ema_loss: exponential moving average of the training loss at the end.
    """

    step: int
    validation_loss: float
    base_validation_loss: float
    ema_loss: float


@dataclass(frozen=True)
class Outcome:
    """A finished training.

    Attributes:
        flags: all flags of `train`.
        dataset_digest: of the training images.
        validation_digest: of what the validation losses were measured on.
        validation_images: number of images held out.
        losses: of the weights next to this file.
        version: of the registered model, once there is one.
        published: whether MLflow has all of it.
    """

    flags: dict[str, Any]
    dataset_digest: str
    validation_digest: str
    validation_images: int
    losses: Losses
    version: int | None = None
    published: bool = False

    def write(self, folder: Path) -> None:
        values = asdict(self)
        write_json(folder / OUTCOME_FILE, {"options": values.pop("flags")} | values.pop("losses") | values)


def read_outcome(folder: Path) -> Outcome | None:
    """The folder's outcome; None where its training did not finish.

    Raises:
        OptionError: the file cannot be read.
    """
    file = folder / OUTCOME_FILE
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_text())
        losses = Losses(**{field.name: values.pop(field.name) for field in fields(Losses)})
        return Outcome(flags=values.pop("options"), losses=losses, **values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise OptionError(f"{str(file)!r} is not the outcome of a training: {error}") from error
