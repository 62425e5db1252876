"""The model registry of an MLflow server, through MLflow's own client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow.artifacts
from atelier_contracts import names
from atelier_contracts.identifiers import IdentifierError, parse_digest, parse_source
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from requests import RequestException

from atelier_infer.errors import (
    AdapterError,
    BundleMissingError,
    NotAnAdapterError,
    SourceError,
    TrackingError,
    UnknownVersionError,
)
from atelier_infer.registry.model_store import BundleVersion, Entry, View

PAGE = 200
"""Versions asked for at a time."""

ADAPTER_BYTES = {names.ADAPTER_FILE: 2**20, names.EVIDENCE_FILE: 2**20, names.WEIGHTS_FILE: 2**31}
"""The files of an adapter, and how large each may be."""

SHOWN = 300
"""Characters of MLflow's own message that are passed on."""


_VALIDATION = re.compile(
    r"validation_0(?P<by>[%+])step(?P=by)(?P<step>\d+)(?P=by)timestamp(?P=by)(?P<ms>\d+)(?P=by)[0-9a-f-]+\.png"
)


class _AbsentError(TrackingError):
    """Raised when MLflow answers that something does not exist; the callers say what."""


class MlflowStore:
    """See `store.Store`. The login is read by MLflow from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."""

    def __init__(self, *, tracking_uri: str, model: str) -> None:
        self._uri, self._model = tracking_uri, model
        self._client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)

    def look(self) -> View:
        """One request: MLflow answers a model with its aliases."""
        try:
            with _translated():
                model = self._client.get_registered_model(self._model)
        except _AbsentError:
            return View("", {})
        return View(str(model.creation_timestamp), {alias: int(number) for alias, number in model.aliases.items()})

    def versions(self) -> list[Entry]:
        """Page by page."""
        # MLflow's filters know no escape; the settings keep double quotes out of the name
        found = self._search(f'name = "{self._model}"')
        entries = [
            Entry(int(version.version), datetime.fromtimestamp(version.creation_timestamp / 1000, UTC))
            for version in found
            if _kind(version) == names.KIND_ADAPTER
        ]
        return sorted(entries, key=lambda entry: entry.number)

    def validation_image(self, version: int) -> bytes | None:
        """Of the run's images, by the names that `MlflowClient.log_image` gives them: with `+` or, in earlier releases, `%`."""
        run_id = self._adapter_version(version).run_id
        if not run_id:
            return None
        with _translated(), TemporaryDirectory() as into:
            listed = [Path(item.path) for item in self._client.list_artifacts(run_id, "images")]
            found = {path: match for path in listed if (match := _VALIDATION.fullmatch(path.name))}
            if not found:
                return None
            newest = max(found, key=lambda path: (int(found[path]["step"]), int(found[path]["ms"])))
            return Path(self._client.download_artifacts(run_id, str(newest), into)).read_bytes()

    def promoted_digest(self, version: int) -> str | None:
        """A tag that tracking lets registry-api alone write."""
        tag = self._adapter_version(version).tags.get(names.TAG_PROMOTED_DIGEST)
        try:
            return None if tag is None else parse_digest(tag)
        except IdentifierError as error:
            raise AdapterError(f"version {version}: the tag {names.TAG_PROMOTED_DIGEST}: {error}") from error

    def adapter_manifest(self, version: int) -> bytes:
        """Downloads one small file, after a look whether it is there."""
        folder = self._adapter_folder(version)
        with _translated(), TemporaryDirectory() as into:
            listed = mlflow.artifacts.list_artifacts(folder, tracking_uri=self._uri) or []
            present = {Path(item.path).name: item.file_size or 0 for item in listed}
            if present.get(names.ADAPTER_FILE, 0) > ADAPTER_BYTES[names.ADAPTER_FILE]:
                raise AdapterError(f"version {version}: {names.ADAPTER_FILE} is too large: {present[names.ADAPTER_FILE]} bytes")
            if names.ADAPTER_FILE not in present:
                raise AdapterError(
                    f"version {version}: {names.ADAPTER_FOLDER}/{names.ADAPTER_FILE} must exist; received "
                    f"{', '.join(sorted(present)) or 'no files'}; register the version with the trainer"
                )
            return self._download(f"{folder}/{names.ADAPTER_FILE}", Path(into)).read_bytes()

    def fetch_adapter(self, version: int, into: Path) -> None:
        """Downloads the files of an adapter, and nothing else that lies beside them."""
        folder = self._adapter_folder(version)
        with _translated():
            for item in mlflow.artifacts.list_artifacts(folder, tracking_uri=self._uri) or []:
                if (file := Path(item.path).name) not in ADAPTER_BYTES or item.is_dir:
                    continue
                if (item.file_size or 0) > ADAPTER_BYTES[file]:
                    raise AdapterError(
                        f"version {version}: {file} may have at most {ADAPTER_BYTES[file]} bytes; received {item.file_size}"
                    )
                self._download(f"{folder}/{file}", into)

    def bundles(self, digest: str) -> list[BundleVersion]:
        """One search over all models."""
        found = self._search(f"tags.`{names.TAG_BUNDLE_DIGEST}` = '{parse_digest(digest)}'")
        bundles = [version for version in found if _kind(version) == names.KIND_BUNDLE]
        if not bundles:
            raise BundleMissingError(
                f"bundle {digest}: no registered version is tagged {names.TAG_KIND}={names.KIND_BUNDLE} and "
                f"{names.TAG_BUNDLE_DIGEST} with it; export the base with the trainer"
            )
        oldest_first = sorted(bundles, key=lambda version: int(version.creation_timestamp))
        return [BundleVersion(version.name, int(version.version)) for version in oldest_first]

    def fetch_bundle(self, version: BundleVersion, into: Path) -> None:
        """Downloads everything that the version holds."""
        address = self._address(version.model, version.number)
        with _translated():
            self._download(address, into)

    def _adapter_folder(self, version: int) -> str:
        self._adapter_version(version)
        return f"{self._address(self._model, version)}/{names.ADAPTER_FOLDER}"

    def _address(self, model: str, version: int) -> str:
        """Where the files are. Only what the tracking server itself hands out is read: another host would get our login."""
        with _translated():
            uri = self._client.get_model_version_download_uri(model, str(version))
        try:
            source = parse_source(uri)
        except IdentifierError as error:
            raise SourceError(f"version {version} of {model}: {error}") from error
        if source.kind != "mlflow-artifacts":
            raise SourceError(f"version {version} of {model}: its files are not kept by the tracking server; received {uri!r}")
        return str(source)

    def _adapter_version(self, version: int) -> ModelVersion:
        try:
            with _translated():
                found = self._client.get_model_version(self._model, str(version))
        except _AbsentError as error:
            raise UnknownVersionError(f"{self._model} has no version {version}") from error
        if (kind := _kind(found)) != names.KIND_ADAPTER:
            raise NotAnAdapterError(
                f"version {version} of {self._model}: must be tagged {names.TAG_KIND}={names.KIND_ADAPTER}; "
                f"received {kind}; choose a version that the trainer registered"
            )
        return found

    def _download(self, uri: str, into: Path) -> Path:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(into), tracking_uri=self._uri))

    def _search(self, condition: str) -> list[ModelVersion]:
        found: list[ModelVersion] = []
        token: str | None = None
        while True:
            with _translated():
                page = self._client.search_model_versions(condition, max_results=PAGE, page_token=token)
            found += page
            if not (token := page.token):
                return found


def _kind(version: ModelVersion) -> str | None:
    kind: str | None = version.tags.get(names.TAG_KIND)
    return kind


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise _AbsentError(f"not in the registry: {error.message[:SHOWN]}") from error
        raise TrackingError(f"the tracking server did not answer as expected: {error.message[:SHOWN]}") from error
    except RequestException as error:
        raise TrackingError(f"the tracking server cannot be reached: {str(error)[:SHOWN]}") from error
