"""The run that a process works on: a sink whose records reach MLflow through journal and uploader."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from atelier_trainer.tracking.journal import Journal
from atelier_trainer.tracking.mlflow_client import TrackingClient
from atelier_trainer.tracking.mlflow_run import MlflowRun
from atelier_trainer.tracking.run_folder import JOURNAL_FOLDER, RunMetadata, read_run_metadata
from atelier_trainer.tracking.uploader import Uploader

PARENT_TAG = "mlflow.parentRunId"
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class NewRun:
    """What MLflow gets to know of a run when it is created."""

    experiment: str
    name: str | None
    settings: dict[str, Any]
    tags: dict[str, str]


class ActiveRun:
    """Implements `metric_sink.MetricSink`."""

    def __init__(self, folder: Path, tracking: TrackingClient, run_id: str) -> None:
        self.id, self.folder, self.tracking = run_id, folder, tracking
        self.journal = Journal(folder / JOURNAL_FOLDER)
        self._uploader = Uploader(self.journal, MlflowRun(tracking, run_id))

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.journal.add_metrics(step, values)

    def log_image(self, image: Image.Image, key: str, step: int) -> None:
        self.journal.add_image(image, key, step)

    def log_text(self, text: str, path: str) -> None:
        """A small text artifact."""
        self.journal.append({"kind": "text", "text": text, "path": path})

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.journal.append({"kind": "params", "values": dict(params)})

    def set_status(self, status: Status) -> None:
        self.journal.append({"kind": "status", "status": status, "at_ms": time.time_ns() // 1_000_000})

    def deliver(self, timeout_s: float) -> bool:
        """Waits until MLflow has everything so far, at most for the timeout; returns whether it has."""
        complete = self._uploader.stop(timeout_s)
        self._uploader = Uploader(self.journal, MlflowRun(self.tracking, self.id))
        return complete

    def close(self, timeout_s: float = 0.0) -> bool:
        """Like `deliver`, and ends the upload."""
        complete = self._uploader.stop(timeout_s)
        self.journal.close()
        return complete


def open_run(folder: Path, tracking: TrackingClient, new_run: NewRun) -> ActiveRun:
    """The run that the folder's metadata names, or a new one.

    Raises:
        TrackingError: the server did not answer; only a new run needs it.
    """
    metadata = read_run_metadata(folder)
    if metadata is not None:
        run = ActiveRun(folder, tracking, metadata.run_id)
        run.set_status("RUNNING")
        return run
    run_id = tracking.create_run(new_run.experiment, new_run.name, new_run.tags)
    RunMetadata(run_id, tracking.uri, new_run.experiment, new_run.settings).write(folder)
    run = ActiveRun(folder, tracking, run_id)
    run.log_params({name: value for name, value in new_run.settings.items() if value is not None})
    return run
