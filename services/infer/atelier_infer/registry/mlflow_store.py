"""The model registry of an MLflow server, accessed with MLflow's client."""

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
from atelier_contracts.styles import MAX_PREVIEW_BYTES
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from requests import RequestException

from atelier_infer.errors import (
    AdapterError,
    ArtifactSourceError,
    BundleMissingError,
    NotAnAdapterError,
    TrackingError,
    UnknownVersionError,
)
from atelier_infer.registry.model_store import AdapterVersion, BundleVersion, RegisteredModel

PAGE_SIZE = 200

MAX_MANIFEST_BYTES, MAX_WEIGHTS_BYTES = 2**20, 2**31

MAX_MESSAGE = 300
"""Characters of MLflow's message that are included in ours."""

_VALIDATION = re.compile(
    r"validation_0(?P<by>[%+])step(?P=by)(?P<step>\d+)(?P=by)timestamp(?P=by)(?P<ms>\d+)(?P=by)[0-9a-f-]+\.png"
)


class _NotFoundError(TrackingError):
    """RESOURCE_DOES_NOT_EXIST; the callers translate it."""


class MlflowStore:
    """Implements `ModelStore`. MLflow reads the credentials from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."""

    def __init__(self, *, tracking_uri: str, model: str) -> None:
        self._uri, self._model = tracking_uri, model
        self._client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)

    def registered_model(self) -> RegisteredModel:
        try:
            with _translated():
                model = self._client.get_registered_model(self._model)
        except _NotFoundError:
            return RegisteredModel("", {})
        aliases = {alias: int(number) for alias, number in model.aliases.items()}
        return RegisteredModel(str(model.creation_timestamp), aliases, model.tags.get(names.TAG_STYLE))

    def versions(self) -> list[AdapterVersion]:
        # MLflow's filters have no escapes; the settings reject double quotes in the name
        versions = [
            AdapterVersion(int(version.version), datetime.fromtimestamp(version.creation_timestamp / 1000, UTC))
            for version in self._search(f'name = "{self._model}"')
            if _kind(version) == names.KIND_ADAPTER
        ]
        return sorted(versions, key=lambda version: version.number)

    def validation_image(self, version: int) -> bytes | None:
        """Found by the file names of `MlflowClient.log_image`, which separate with `+` or, in earlier releases, `%`."""
        run_id = self._adapter_version(version).run_id
        if not run_id:
            return None
        with _translated(), TemporaryDirectory() as into:
            paths = [Path(item.path) for item in self._client.list_artifacts(run_id, "images")]
            images = {path: match for path in paths if (match := _VALIDATION.fullmatch(path.name))}
            if not images:
                return None
            latest = max(images, key=lambda path: (int(images[path]["step"]), int(images[path]["ms"])))
            return Path(self._client.download_artifacts(run_id, str(latest), into)).read_bytes()

    def promoted_digest(self, version: int) -> str | None:
        """From a tag that the tracking server allows only registry-api to write."""
        tag = self._adapter_version(version).tags.get(names.TAG_PROMOTED_DIGEST)
        try:
            return None if tag is None else parse_digest(tag)
        except IdentifierError as error:
            raise AdapterError(f"version {version}: the tag {names.TAG_PROMOTED_DIGEST}: {error}") from error

    def adapter_manifest(self, version: int) -> bytes:
        folder = self._adapter_folder(version)
        sizes = self._file_sizes(folder)
        if names.ADAPTER_FILE not in sizes:
            raise AdapterError(
                f"version {version}: {names.ADAPTER_FOLDER}/{names.ADAPTER_FILE} must exist; received "
                f"{', '.join(sorted(sizes)) or 'no files'}; register the version with the trainer"
            )
        _check_size(version, names.ADAPTER_FILE, sizes[names.ADAPTER_FILE], MAX_MANIFEST_BYTES)
        with _translated(), TemporaryDirectory() as into:
            return self._download(f"{folder}/{names.ADAPTER_FILE}", Path(into)).read_bytes()

    def fetch_weights(self, version: int, into: Path) -> Path | None:
        return self._fetch(version, names.WEIGHTS_FILE, MAX_WEIGHTS_BYTES, into)

    def fetch_preview(self, version: int, into: Path) -> Path | None:
        return self._fetch(version, names.PREVIEW_FILE, MAX_PREVIEW_BYTES, into)

    def bundles(self, digest: str) -> list[BundleVersion]:
        """One search over all models."""
        tagged = self._search(f"tags.`{names.TAG_BUNDLE_DIGEST}` = '{parse_digest(digest)}'")
        bundles = [version for version in tagged if _kind(version) == names.KIND_BUNDLE]
        if not bundles:
            raise BundleMissingError(
                f"bundle {digest}: no registered version is tagged {names.TAG_KIND}={names.KIND_BUNDLE} and "
                f"{names.TAG_BUNDLE_DIGEST} with it; export the base model with the trainer"
            )
        oldest_first = sorted(bundles, key=lambda version: int(version.creation_timestamp))
        return [BundleVersion(version.name, int(version.version)) for version in oldest_first]

    def fetch_bundle(self, version: BundleVersion, into: Path) -> None:
        address = self._address(version.model, version.number)
        with _translated():
            self._download(address, into)

    def _fetch(self, version: int, file: str, max_bytes: int, into: Path) -> Path | None:
        folder = self._adapter_folder(version)
        sizes = self._file_sizes(folder)
        if file not in sizes:
            return None
        _check_size(version, file, sizes[file], max_bytes)
        with _translated():
            return self._download(f"{folder}/{file}", into)

    def _adapter_folder(self, version: int) -> str:
        self._adapter_version(version)
        return f"{self._address(self._model, version)}/{names.ADAPTER_FOLDER}"

    def _address(self, model: str, version: int) -> str:
        """The files' address. Only addresses on the tracking server are accepted: another host would get our credentials."""
        with _translated():
            uri = self._client.get_model_version_download_uri(model, str(version))
        try:
            source = parse_source(uri)
        except IdentifierError as error:
            raise ArtifactSourceError(f"version {version} of {model}: {error}") from error
        if source.kind != "mlflow-artifacts":
            raise ArtifactSourceError(
                f"version {version} of {model}: its files must be stored by the tracking server; received {uri!r}"
            )
        return str(source)

    def _adapter_version(self, version: int) -> ModelVersion:
        try:
            with _translated():
                model_version = self._client.get_model_version(self._model, str(version))
        except _NotFoundError as error:
            raise UnknownVersionError(f"{self._model} has no version {version}") from error
        if (kind := _kind(model_version)) != names.KIND_ADAPTER:
            raise NotAnAdapterError(
                f"version {version} of {self._model}: must be tagged {names.TAG_KIND}={names.KIND_ADAPTER}; "
                f"received {kind}; choose a version that the trainer registered"
            )
        return model_version

    def _file_sizes(self, folder: str) -> dict[str, int]:
        with _translated():
            items = mlflow.artifacts.list_artifacts(folder, tracking_uri=self._uri) or []
        return {Path(item.path).name: item.file_size or 0 for item in items if not item.is_dir}

    def _download(self, uri: str, into: Path) -> Path:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(into), tracking_uri=self._uri))

    def _search(self, condition: str) -> list[ModelVersion]:
        versions: list[ModelVersion] = []
        token: str | None = None
        while True:
            with _translated():
                page = self._client.search_model_versions(condition, max_results=PAGE_SIZE, page_token=token)
            versions += page
            if not (token := page.token):
                return versions


def _kind(version: ModelVersion) -> str | None:
    kind: str | None = version.tags.get(names.TAG_KIND)
    return kind


def _check_size(version: int, file: str, nbytes: int, limit: int) -> None:
    if nbytes > limit:
        raise AdapterError(f"version {version}: {file} may have at most {limit} bytes; received {nbytes}")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise _NotFoundError(f"not in the registry: {error.message[:MAX_MESSAGE]}") from error
        raise TrackingError(f"unexpected answer of the tracking server: {error.message[:MAX_MESSAGE]}") from error
    except RequestException as error:
        raise TrackingError(f"the tracking server cannot be reached: {str(error)[:MAX_MESSAGE]}") from error
