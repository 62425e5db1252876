"""The trainer's side of MLflow: one run, its metrics and pictures, and the two kinds of model it registers."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from mlflow.entities import Metric, RunStatus
from mlflow.exceptions import MlflowException
from PIL import Image

from atelier_trainer.errors import TrackingError


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """MLflow's and requests' exceptions become one TrackingError that names the server.

    Raises:
        TrackingError: the server did not answer or refused.
    """
    try:
        yield
    except (MlflowException, OSError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TrackingError(f"MLflow at {uri} did not do what was asked: {first_line[:300]}") from error


class Tracking:
    """A client bound to one server. Nothing is sent before `start`."""

    def __init__(self, uri: str) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        logging.getLogger("mlflow").setLevel(logging.ERROR)  # it reports what our caller prints anyway
        self.uri = uri
        mlflow.set_tracking_uri(uri)
        self._client = mlflow.MlflowClient(uri)

    @contextmanager
    def run(self, experiment: str, params: dict[str, Any], tags: dict[str, str]) -> Iterator[str]:
        """One run: FINISHED at the end, KILLED on Ctrl-C, FAILED on an error. Yields its id."""
        with translated(self.uri):
            mlflow.set_experiment(experiment)
            run = mlflow.start_run(tags=tags)
            mlflow.log_params(params)
        status = RunStatus.FAILED
        try:
            yield run.info.run_id
            status = RunStatus.FINISHED
        except KeyboardInterrupt:
            status = RunStatus.KILLED
            raise
        finally:
            with _best_effort(status != RunStatus.FINISHED), translated(self.uri):
                mlflow.end_run(RunStatus.to_string(status))

    def metrics(self, run_id: str, rows: list[tuple[str, float, int, int]]) -> None:
        """Sends (name, value, step, unix time in ms) rows in one request."""
        with translated(self.uri):
            metrics = [Metric(name, value, at_ms, step) for name, value, step, at_ms in rows]
            self._client.log_batch(run_id, metrics=metrics, synchronous=True)

    def picture(self, run_id: str, image: Image.Image, key: str, step: int) -> None:
        """An image that MLflow's page shows over steps."""
        with translated(self.uri):
            self._client.log_image(run_id, image, key=key, step=step, synchronous=True)

    def bundle(self, source: str) -> tuple[str, str] | None:
        """Registered name and version of the bundle exported from this source, if there is one."""
        with translated(self.uri):
            found = self._client.search_model_versions(f"tags.`{names.TAG_SOURCE_DIGEST}` = '{source}'")
        ready = sorted((int(version.version), version.name) for version in found if version.status == "READY")
        return (ready[0][1], str(ready[0][0])) if ready else None

    def download(self, name: str, version: str, out: Path) -> Path:
        """Artifacts of a registered version; returns the folder that holds them."""
        with translated(self.uri):
            return Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=str(out)))

    def register_bundle(self, run_id: str, folder: Path, manifest: BundleManifest) -> str:
        """Keeps a bundle as a version of `<base>-base`; returns `name/version`."""
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", manifest.base) + "-base"
        with translated(self.uri):
            self._client.log_artifacts(run_id, str(folder), "bundle")
            self._create_model(name, "Base model as ONNX graphs with LoRA inputs; adapters refer to it by digest.")
            run = self._client.get_run(run_id)
            version = self._client.create_model_version(
                name,
                source=f"{run.info.artifact_uri}/bundle",
                run_id=run_id,
                tags={
                    names.TAG_KIND: names.KIND_BUNDLE,
                    names.TAG_BUNDLE_DIGEST: manifest.digest(),
                    names.TAG_SOURCE_DIGEST: manifest.source_digest,
                },
            )
        return f"{name}/{version.version}"

    def log_adapter(self, run_id: str, folder: Path, base: str, manifest: AdapterManifest, register: str | None) -> int | None:
        """Logs the adapter folder as an MLflow model of the diffusers flavor and, where a name is given, registers it.

        Args:
            run_id: the active run.
            folder: weights, adapter.json and evidence.json.
            base: hub id, or `bundle:<digest>`; MLflow stores it as it is, so never a path.
            manifest: of the weights.
            register: registered model's name.

        Returns:
            The new version's number, None when it was not registered.
        """
        with translated(self.uri):
            info = mlflow.diffusers.log_model(adapter_path=str(folder), base_model=base, name="adapter")
            if register is None:
                return None
            self._create_model(register, "LoRA adapters; promote one with registry-api.")
            version = self._client.create_model_version(
                register,
                source=info.model_uri,
                run_id=run_id,
                model_id=info.model_id,
                tags={names.TAG_KIND: names.KIND_ADAPTER, names.TAG_BUNDLE_DIGEST: manifest.bundle_digest},
            )
        return int(version.version)

    def _create_model(self, name: str, description: str) -> None:
        try:
            self._client.create_registered_model(name, description=description)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


@contextmanager
def _best_effort(active: bool) -> Iterator[None]:
    """Lets the first error through: closing a run on a dead server must not hide why it is being closed."""
    try:
        yield
    except TrackingError:
        if not active:
            raise


def fetch_or_export(
    tracking: Tracking,
    source: str,
    work: Path,
    export: Callable[[Path], BundleManifest],
    register: Callable[[Path, BundleManifest], str],
) -> tuple[Path, BundleManifest]:
    """The bundle of a base: downloaded where the registry has it, exported and registered where it has not.

    Returns:
        Its folder below `work`, and its manifest.
    """
    found = tracking.bundle(source)
    if found is not None:
        folder = tracking.download(*found, work)
        manifest_file = next(folder.rglob(names.BUNDLE_FILE), None)
        if manifest_file is not None:
            return manifest_file.parent, BundleManifest.model_validate_json(manifest_file.read_text())
    folder = Path(tempfile.mkdtemp(dir=work))
    manifest = export(folder)
    register(folder, manifest)
    return folder, manifest
