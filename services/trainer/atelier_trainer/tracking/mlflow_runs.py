"""The trainer's side of MLflow's registry: new runs, and the kinds of model that a run leaves."""

from __future__ import annotations

import getpass
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
from mlflow.exceptions import MlflowException

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
    """A client bound to one server. Nothing is sent before a method is called."""

    def __init__(self, uri: str) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        logging.getLogger("mlflow").setLevel(logging.ERROR)  # it reports what our caller prints anyway
        self.uri = uri
        mlflow.set_tracking_uri(uri)
        self.client = mlflow.MlflowClient(uri)

    def create_run(self, experiment: str, name: str | None, tags: dict[str, str]) -> str:
        """A new run of an experiment, which is made where it is missing; returns the run's id."""
        with translated(self.uri):
            found = self.client.get_experiment_by_name(experiment)
            number = found.experiment_id if found is not None else self._create_experiment(experiment)
            user = {"mlflow.user": getpass.getuser(), "mlflow.source.name": "atelier_trainer", "mlflow.source.type": "LOCAL"}
            return str(self.client.create_run(number, tags=user | tags, run_name=name).info.run_id)

    def artifact_text(self, run_id: str, path: str) -> str | None:
        """A text artifact of a run; None where the run has none of that name.

        Raises:
            TrackingError: there is no such run, or the server did not answer.
        """
        with translated(self.uri):
            self.client.get_run(run_id)
            if path not in {file.path for file in self.client.list_artifacts(run_id)}:
                return None
            with tempfile.TemporaryDirectory(prefix="atelier-") as folder:
                return Path(self.client.download_artifacts(run_id, path, folder)).read_text()

    def bundle(self, source: str) -> tuple[str, str] | None:
        """Registered name and version of the bundle exported from this source, if there is one."""
        with translated(self.uri):
            found = self.client.search_model_versions(f"tags.`{names.TAG_SOURCE_DIGEST}` = '{source}'")
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
            self.client.log_artifacts(run_id, str(folder), "bundle")
            self._create_model(name, "Base model as ONNX graphs with LoRA inputs; adapters refer to it by digest.")
            run = self.client.get_run(run_id)
            version = self.client.create_model_version(
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

        Twice is once: what the run already has is not made again.

        Args:
            run_id: of the run.
            folder: weights, adapter.json and evidence.json.
            base: hub id, or `bundle:<digest>`; MLflow stores it as it is, so never a path.
            manifest: of the weights.
            register: registered model's name.

        Returns:
            The new version's number, None when it was not registered.
        """
        with translated(self.uri):
            model = self._logged_model(
                run_id, "adapter", lambda: mlflow.diffusers.log_model(adapter_path=str(folder), base_model=base, name="adapter")
            )
            if register is None:
                return None
            self._create_model(register, "LoRA adapters; promote one with registry-api.")
            for version in self.client.search_model_versions(f"name = '{register}' and run_id = '{run_id}'"):
                return int(version.version)
            version = self.client.create_model_version(
                register,
                source=f"models:/{model}",
                run_id=run_id,
                model_id=model,
                tags={names.TAG_KIND: names.KIND_ADAPTER, names.TAG_BUNDLE_DIGEST: manifest.bundle_digest},
            )
        return int(version.version)

    def log_merged(self, run_id: str, graph: Path) -> str:
        """Logs a whole UNet as an MLflow model of the onnx flavor; returns its model id."""
        import onnx

        with translated(self.uri):
            return self._logged_model(
                run_id,
                "merged",
                lambda: mlflow.onnx.log_model(
                    onnx.load(graph), name="merged", save_as_external_data=True, pip_requirements=["onnxruntime"]
                ),
            )

    def _logged_model(self, run_id: str, name: str, log: Callable[[], Any]) -> str:
        run = self.client.get_run(run_id)
        for model in self.client.search_logged_models(
            [run.info.experiment_id], f"source_run_id = '{run_id}' AND name = '{name}'"
        ):
            if str(model.status) == "READY":
                return str(model.model_id)
        with mlflow.start_run(run_id=run_id):
            return str(log().model_id)

    def _create_experiment(self, name: str) -> str:
        try:
            return str(self.client.create_experiment(name))
        except MlflowException as error:  # another process was faster
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return str(self.client.get_experiment_by_name(name).experiment_id)

    def _create_model(self, name: str, description: str) -> None:
        try:
            self.client.create_registered_model(name, description=description)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
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
