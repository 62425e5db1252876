"""MLflow as the trainer uses it: runs, artifacts, and the models that a run registers."""

from __future__ import annotations

import getpass
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from mlflow.exceptions import MlflowException

from atelier_trainer.errors import TrackingError, first_line

IMAGE_FILE = re.compile(r"(?P<name>[^+]+)\+step\+(?P<step>\d+)\+.*\.png")
"""As `MlflowRun.log_image` names them."""


@contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """Turns MLflow's and requests' exceptions into a TrackingError that names the server."""
    try:
        yield
    except (MlflowException, OSError) as error:
        raise TrackingError(f"request to MLflow at {uri} failed: {first_line(error)}") from error


class RegisteredBundle(NamedTuple):
    """A version of a registered model that is a bundle."""

    name: str
    version: str
    digest: str


class TrackingClient:
    """A client of one server; its methods raise TrackingError where the server does not answer or refuses."""

    def __init__(self, uri: str) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        logging.getLogger("mlflow").setLevel(logging.ERROR)  # its errors are raised as well
        self.uri = uri
        mlflow.set_tracking_uri(uri)
        self.client = mlflow.MlflowClient(uri)

    def create_run(self, experiment: str, name: str | None, tags: dict[str, str]) -> str:
        """Creates a run, and the experiment where it is missing; returns the run's id."""
        with translate_errors(self.uri):
            existing = self.client.get_experiment_by_name(experiment)
            experiment_id = existing.experiment_id if existing is not None else self._create_experiment(experiment)
            source = {"mlflow.user": getpass.getuser(), "mlflow.source.name": "atelier_trainer", "mlflow.source.type": "LOCAL"}
            return str(self.client.create_run(experiment_id, tags=source | tags, run_name=name).info.run_id)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        with translate_errors(self.uri):
            for name, value in params.items():
                self.client.log_param(run_id, name, value)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        with translate_errors(self.uri):
            for name, value in metrics.items():
                self.client.log_metric(run_id, name, value)

    def end_run(self, run_id: str, status: str) -> None:
        """Sets a run's final status."""
        with translate_errors(self.uri):
            self.client.set_terminated(run_id, status)

    def artifact_text(self, run_id: str, path: str) -> str | None:
        """A text artifact of a run; None where the run has none of that name."""
        with translate_errors(self.uri):
            self.client.get_run(run_id)
            if path not in {file.path for file in self.client.list_artifacts(run_id)}:
                return None
            with tempfile.TemporaryDirectory(prefix="atelier-") as folder:
                return Path(self.client.download_artifacts(run_id, path, folder)).read_text()

    def bundle_version(self, source_digest: str) -> RegisteredBundle | None:
        """The first bundle that was exported from this source and registered, if there is one."""
        with translate_errors(self.uri):
            versions = self.client.search_model_versions(f"tags.`{names.TAG_SOURCE_DIGEST}` = '{source_digest}'")
        ready = [version for version in versions if version.status == "READY"]
        if not ready:
            return None
        first = min(ready, key=lambda version: (int(version.version), version.name))
        return RegisteredBundle(first.name, str(first.version), first.tags.get(names.TAG_BUNDLE_DIGEST, ""))

    def download(self, name: str, version: str, folder: Path) -> Path:
        """Downloads a registered version; returns the folder of its artifacts."""
        with translate_errors(self.uri):
            return Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=str(folder)))

    def download_images(self, run_id: str, folder: Path) -> list[Path]:
        """The newest validation image of each name, as `folder`/images/NAME.png."""
        newest: dict[str, tuple[int, str]] = {}
        with translate_errors(self.uri):
            for file in self.client.list_artifacts(run_id, "images"):
                if match := IMAGE_FILE.fullmatch(Path(file.path).name):
                    newest[match["name"]] = max(newest.get(match["name"], (-1, "")), (int(match["step"]), str(file.path)))
            found = []
            for name, (_, path) in sorted(newest.items()):
                downloaded = Path(self.client.download_artifacts(run_id, path, str(folder)))
                (folder / "images").mkdir(exist_ok=True)
                found.append(downloaded.replace(folder / "images" / f"{name}.png"))
        return found

    def validation_image(self, run_id: str, step: int) -> bytes | None:
        """The PNG of the first validation prompt at an optimizer step; None where the run logged none then."""
        with translate_errors(self.uri):
            for file in self.client.list_artifacts(run_id, "images"):
                match = IMAGE_FILE.fullmatch(Path(file.path).name)
                if match and (match["name"], int(match["step"])) == ("validation_0", step):
                    with tempfile.TemporaryDirectory(prefix="atelier-") as folder:
                        return Path(self.client.download_artifacts(run_id, str(file.path), folder)).read_bytes()
        return None

    def alias_version(self, model: str, alias: str) -> int:
        """The version that an alias of a registered model points at."""
        with translate_errors(self.uri):
            return int(self.client.get_model_version_by_alias(model, alias).version)

    def bundle_manifest(self, digest: str, folder: Path) -> str:
        """The text of bundle.json of a registered bundle, without its graphs.

        Raises:
            TrackingError: no bundle of this digest is registered.
        """
        with translate_errors(self.uri):
            found = self.client.search_model_versions(f"tags.`{names.TAG_BUNDLE_DIGEST}` = '{digest}'")
            bundles = [version for version in found if version.tags.get(names.TAG_KIND) == names.KIND_BUNDLE]
            if not bundles:
                raise TrackingError(f"no bundle of digest {digest} is registered at {self.uri}")
            uri = f"models:/{bundles[0].name}/{bundles[0].version}/{names.BUNDLE_FILE}"
            return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))).read_text()

    def register_bundle(self, run_id: str, folder: Path, manifest: BundleManifest) -> str:
        """Registers a bundle as a version of `<base model>-base`; returns `name/version`."""
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", manifest.base) + "-base"
        with translate_errors(self.uri):
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

    def log_adapter(self, run_id: str, folder: Path, base: str) -> str:
        """Logs the adapter as an MLflow model of the diffusers flavor, once per run; returns the model's id.

        Args:
            run_id: of the run.
            folder: weights, adapter.json and evidence.json.
            base: hub id, or `bundle:<digest>`; MLflow stores it unchanged, so never a path.
        """
        with translate_errors(self.uri):
            return self._logged_model(
                run_id, "adapter", lambda: mlflow.diffusers.log_model(adapter_path=str(folder), base_model=base, name="adapter")
            )

    def register_adapter(self, name: str, run_id: str, model_id: str, manifest: AdapterManifest) -> int:
        """Registers a logged adapter, once per run and name; returns the version's number."""
        with translate_errors(self.uri):
            self._create_model(name, "LoRA adapters; promote one with registry-api.")
            for version in self.client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
                return int(version.version)
            version = self.client.create_model_version(
                name,
                source=f"models:/{model_id}",
                run_id=run_id,
                model_id=model_id,
                tags={names.TAG_KIND: names.KIND_ADAPTER, names.TAG_BUNDLE_DIGEST: manifest.bundle_digest},
            )
        return int(version.version)

    def log_merged(self, run_id: str, graph: Path) -> str:
        """Logs a whole UNet as an MLflow model of the onnx flavor, once per run; returns the model's id."""
        import onnx

        with translate_errors(self.uri):
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
        except MlflowException as error:  # created by another process meanwhile
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return str(self.client.get_experiment_by_name(name).experiment_id)

    def _create_model(self, name: str, description: str) -> None:
        try:
            self.client.create_registered_model(name, description=description)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
