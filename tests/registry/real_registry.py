"""An MLflow server that is filled as the trainer fills it."""

from __future__ import annotations

import sqlite3
import tempfile
import uuid
from pathlib import Path
from typing import Any

from atelier_contracts.names import ADAPTER_FOLDER, PREVIEW_FILE, WEIGHTS_FILE
from atelier_registry.models.mlflow_registry import MlflowRegistry

from ..servers import MlflowServer
from .adapter_files import FILES, WEIGHTS


class RealWorld:
    """Fills an MLflow server the way a trainer does. The same `add_...` methods as the fake's."""

    def __init__(self, server: MlflowServer) -> None:
        from mlflow.tracking import MlflowClient

        self.registry = MlflowRegistry(server.uri)
        self.client = MlflowClient(server.uri)
        self._database, self._shared = server.database, None
        self._experiment = self.client.create_experiment(f"e-{uuid.uuid4().hex}")

    def add_model(self, name: str, description: str = "") -> str:
        return self.client.create_registered_model(name, description=description or None).name

    def add_version(
        self,
        name: str,
        tags: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        metrics: dict[str, float] | None = None,
        files: dict[str, str] | None = None,
        run_tags: dict[str, str] | None = None,
        preview: bytes | None = None,
    ) -> int:
        if files is None and (tags or {}).get("atelier.kind") == "adapter":
            files = FILES
        run = self.client.create_run(self._experiment, run_name="a run", tags=dict(run_tags or {})).info.run_id
        for key, value in (params or {}).items():
            self.client.log_param(run, key, value)
        for key, value in (metrics or {}).items():  # type: ignore[assignment]
            self.client.log_metric(run, key, value)
        self.client.set_terminated(run)
        made = self._log_files(run, files or {}, preview)
        version = self.client.create_model_version(
            name, f"models:/{made}", run, tags=dict(tags or {}), model_id=made, await_creation_for=0
        )
        return int(version.version)

    def add_bare_version(self, name: str) -> int:
        """A version whose files all such versions share: one question instead of a dozen, for tests that need very many."""
        if self._shared is None:
            self._shared = self._log_files(self.client.create_run(self._experiment).info.run_id, FILES)  # type: ignore[assignment]
        made = self.client.create_model_version(
            name, f"models:/{self._shared}", tags={"atelier.kind": "adapter"}, model_id=self._shared, await_creation_for=0
        )
        return int(made.version)

    def _log_files(self, run: str, files: dict[str, str], preview: bytes | None = None) -> str:
        from mlflow.entities import LoggedModelStatus

        made = self.client.create_logged_model(self._experiment, name="adapter", source_run_id=run)
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder, ADAPTER_FOLDER)
            weights.mkdir()
            for file, text in {WEIGHTS_FILE: WEIGHTS, **files}.items():
                (weights / file).write_text(text)
            if preview is not None:
                (weights / PREVIEW_FILE).write_bytes(preview)
            self.client.log_model_artifacts(made.model_id, folder)
        self.client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
        return made.model_id

    def keep_files_elsewhere(self, name: str, number: int, place: str = "/etc") -> None:
        self._write("UPDATE model_versions SET storage_location = ? WHERE name = ? AND version = ?", place, name, number)

    def point(self, name: str, alias: str, number: int) -> None:
        self.client.set_registered_model_alias(name, alias, str(number))

    def unpoint(self, name: str, alias: str) -> None:
        self.client.delete_registered_model_alias(name, alias)

    def tag_model(self, name: str, key: str, value: str | None) -> None:
        if value is None:
            self.client.delete_registered_model_tag(name, key)
        else:
            self.client.set_registered_model_tag(name, key, value)

    def add_image(self, name: str, number: int, key: str, step: int, png: bytes) -> None:
        import io

        from PIL import Image

        run = self.client.get_model_version(name, str(number)).run_id
        self.client.log_image(run, Image.open(io.BytesIO(png)), key=key, step=step, synchronous=True)

    def add_point(self, name: str, number: int, metric: str, step: int, value: float) -> None:
        self.client.log_metric(self.client.get_model_version(name, str(number)).run_id, metric, value, step=step)

    def make_pending(self, name: str, number: int) -> None:
        self._write("UPDATE model_versions SET status = ? WHERE name = ? AND version = ?", "PENDING_REGISTRATION", name, number)

    def delete_version(self, name: str, number: int) -> None:
        self.client.delete_model_version(name, str(number))

    def delete_model(self, name: str) -> None:
        self.client.delete_registered_model(name)

    def _write(self, statement: str, *values: Any) -> None:
        with sqlite3.connect(self._database, timeout=10) as connection:
            connection.execute(statement, values)
        connection.close()
