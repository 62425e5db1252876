"""One MLflow run, by its id, as the uploader's backend."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag
from PIL import Image

from atelier_trainer.tracking.journal import Record
from atelier_trainer.tracking.mlflow_client import TrackingClient, translate_errors
from atelier_trainer.tracking.uploader import Row

MAX_METRICS, MAX_PARAMS = 1000, 100  # MLflow's limits for one request
THUMBNAIL_PX = 256


class MlflowRun:
    """Implements `uploader.RunBackend`."""

    def __init__(self, tracking: TrackingClient, run_id: str) -> None:
        self._client, self._uri, self._run_id = tracking.client, tracking.uri, run_id

    def log_metrics(self, rows: list[Row]) -> None:
        with translate_errors(self._uri):
            for start in range(0, len(rows), MAX_METRICS):
                batch = [Metric(name, value, at_ms, step) for name, value, step, at_ms in rows[start : start + MAX_METRICS]]
                self._client.log_batch(self._run_id, metrics=batch, synchronous=True)

    def metric_history(self, name: str) -> set[tuple[int, int]]:
        with translate_errors(self._uri):
            return {(metric.step, metric.timestamp) for metric in self._client.get_metric_history(self._run_id, name)}

    def log_image(self, record: Record, file: Path) -> None:
        """The name is in the format that MLflow's page parses step and time from."""
        if not file.exists():
            return  # delivered by an earlier attempt, which removed it
        identity = uuid.UUID(hashlib.sha256(f"{record['key']} {record['step']} {record['at_ms']}".encode()).hexdigest()[:32])
        stem = f"{record['key']}+step+{record['step']}+timestamp+{record['at_ms']}+{identity}"
        full, compressed = file.with_name(f"{stem}.png"), file.with_name(f"{stem}+compressed.webp")
        with Image.open(file) as image:
            thumbnail = image.convert("RGB")
        thumbnail.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        thumbnail.save(compressed, "WEBP")
        full.write_bytes(file.read_bytes())
        with translate_errors(self._uri):
            self._client.log_artifact(self._run_id, str(full), "images")
            self._client.log_artifact(self._run_id, str(compressed), "images")
            self._client.set_tag(self._run_id, "mlflow.loggedImages", True)
        for delivered in (full, compressed, file):
            delivered.unlink()

    def log_record(self, record: Record) -> None:
        with translate_errors(self._uri):
            if record["kind"] == "params":
                params = [Param(name, str(value)) for name, value in record["values"].items()]
                for start in range(0, len(params), MAX_PARAMS):
                    self._client.log_batch(self._run_id, params=params[start : start + MAX_PARAMS], synchronous=True)
            elif record["kind"] == "tags":
                tags = [RunTag(name, str(value)) for name, value in record["values"].items()]
                self._client.log_batch(self._run_id, tags=tags, synchronous=True)
            elif record["kind"] == "text":
                self._client.log_text(self._run_id, record["text"], record["path"])
            elif record["kind"] == "status" and record["status"] == "RUNNING":
                self._client.update_run(self._run_id, "RUNNING")
            elif record["kind"] == "status":
                self._client.set_terminated(self._run_id, record["status"], record["at_ms"])
