"""The `ModelRegistry` that is an MLflow server. MLflow's exceptions end here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import mlflow.artifacts
from atelier_contracts.identifiers import IdentifierError, parse_source
from atelier_contracts.names import ADAPTER_FILE, ADAPTER_FOLDER, CHAIN_MODEL, EVIDENCE_FILE, TAG_CHAIN_HEAD, WEIGHTS_FILE
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from requests.exceptions import RequestException

from atelier_registry.errors import InvalidArgumentError, TrackingUnavailableError, UnreadableFileError
from atelier_registry.models import artifact_stream
from atelier_registry.models.model_registry import FILES, AdapterFiles, Image, Model, Page, Point, Run, Version

T = TypeVar("T")

_ABSENT = "RESOURCE_DOES_NOT_EXIST"
_INVALID = "INVALID_PARAMETER_VALUE"
_MAX_FILE_BYTES = 1 << 20
_MAX_WEIGHTS_BYTES = 2 << 30
_MAX_IMAGE_BYTES = 16 << 20
_IMAGE = re.compile(
    r"images/(?P<key>[^/%+]+)(?P<by>[%+])step(?P=by)(?P<step>\d+)(?P=by)timestamp(?P=by)\d+(?P=by)[0-9a-f-]+\.png"
)
_MAX_VERSION = 2**31 - 1  # MLflow keeps version numbers in a 32-bit column, and fails on larger ones


def limit_waiting(timeout_s: int) -> None:
    """Sets MLflow's own variables so that a dead server costs a request `2 * timeout_s`; turns reports and progress bars off.

    The client's defaults retry for minutes. One retry stays, for a kept-alive connection that the server closed meanwhile.
    Presigned downloads are off: the files read here are small, and the addresses may be out of this service's reach.
    """
    os.environ |= {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
        "MLFLOW_HTTP_POOL_MAXSIZE": "40",  # as many as there are worker threads
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


class MlflowRegistry:
    """Asks one MLflow server, through MLflow's own client. Safe to use from several threads."""

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri
        self._client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        self._known_experiments: list[str] = []  # a search for runs must name them all

    def ping(self) -> None:
        """See `ModelRegistry`."""
        _ask(lambda: self._client.search_registered_models(max_results=1))

    def models(self, limit: int, page_token: str | None) -> Page[Model]:
        """See `ModelRegistry`. One call."""
        _check_token(page_token)
        page = _ask(
            lambda: self._client.search_registered_models(max_results=limit, order_by=["name ASC"], page_token=page_token)
        )
        return Page([_model(item) for item in page], page.token or None) if page is not None else Page([])

    def model(self, name: str) -> Model | None:
        """See `ModelRegistry`. One call: a search, since MLflow loads all versions of a model that is asked for by name."""
        if {"'", '"'} <= set(name) or set(":/") & set(name):  # cannot be searched for, or be a name: MLflow says so
            found = _ask(lambda: self._client.get_registered_model(name))
            return _model(found) if found is not None else None
        page = _ask(lambda: self._client.search_registered_models(f"name = {_quoted(name)}", max_results=1))
        return next((_model(item) for item in page or [] if item.name == name), None)

    def versions(self, name: str, limit: int, page_token: str | None) -> Page[Version]:
        """See `ModelRegistry`. One call, however many versions."""
        _check_token(page_token)
        page = _ask(
            lambda: self._client.search_model_versions(
                f"name = {_quoted(name)}", max_results=limit, order_by=["version_number DESC"], page_token=page_token
            )
        )
        return Page([_version(item) for item in page], page.token or None) if page is not None else Page([])

    def version(self, name: str, number: int) -> Version | None:
        """See `ModelRegistry`. One call."""
        if number > _MAX_VERSION:
            return None
        found = _ask(lambda: self._client.get_model_version(name, str(number)))
        return _version(found) if found is not None else None

    def run(self, run_id: str) -> Run | None:
        """See `ModelRegistry`. One call."""
        found = _ask(lambda: self._client.get_run(run_id))
        if found is None:
            return None
        return _run(found)

    def runs(self, run_ids: Sequence[str]) -> dict[str, Run]:
        """See `ModelRegistry`. One call, and now and then one more to learn of new experiments."""
        ids = sorted({run_id for run_id in run_ids if re.fullmatch(r"[0-9a-f]{32}", run_id)})
        if not ids:
            return {}
        experiments = self._experiments(fresh=False)
        listed = ", ".join(f"'{run_id}'" for run_id in ids)
        for last in (False, True):
            page = _ask(
                lambda: self._client.search_runs(
                    experiments,  # noqa: B023
                    f"attributes.run_id IN ({listed})",
                    run_view_type=ViewType.ALL,
                    max_results=len(ids),
                )
            )
            found = {run.info.run_id: _run(run) for run in page or []}
            if last or len(found) == len(ids):
                break
            experiments = self._experiments(fresh=True)
        return found

    def curve(self, run_id: str, metric: str) -> list[Point]:
        """See `ModelRegistry`. One call."""
        points = _ask(lambda: self._client.get_metric_history(run_id, metric)) or []
        return [Point(int(point.step), float(point.value)) for point in points]

    def images(self, run_id: str) -> list[Image]:
        """See `ModelRegistry`. One call; MLflow's `log_image` writes key, step and time into the file's name."""
        found = _ask(lambda: self._client.list_artifacts(run_id, "images")) or []
        told = (match for info in found if (match := _IMAGE.fullmatch(info.path)))
        images = [Image(match[0], match["key"].replace("~", "/"), int(match["step"])) for match in told]
        return sorted(images, key=lambda image: (image.key, image.step))

    def image(self, run_id: str, path: str) -> bytes | None:
        """See `ModelRegistry`. Only what the tracking server itself hands out is read."""
        found = _ask(lambda: self._client.get_run(run_id))
        if found is None or not _IMAGE.fullmatch(path):
            return None
        root = _proxied(found.info.artifact_uri)
        with TemporaryDirectory() as folder:
            file = _ask(lambda: mlflow.artifacts.download_artifacts(f"{root}/{path}", dst_path=folder, tracking_uri=self._uri))
            if file is None or Path(file).stat().st_size > _MAX_IMAGE_BYTES:
                return None
            content = Path(file).read_bytes()
        return content if content.startswith(b"\x89PNG") else None

    def _experiments(self, *, fresh: bool) -> list[str]:
        if fresh or not self._known_experiments:
            found: list[str] = []
            token = None
            while True:
                page = _ask(lambda: self._client.search_experiments(ViewType.ALL, max_results=1000, page_token=token))
                found += [experiment.experiment_id for experiment in page or []]
                if page is None or not (token := page.token):
                    break
            self._known_experiments = found
        return self._known_experiments

    def files(self, name: str, number: int, wanted: Collection[str] = FILES) -> dict[str, str]:
        """See `ModelRegistry`. Only files that the tracking server itself hands out are read.

        A version's location is whatever its author registered: a path would be read from this machine's disk, and another
        host would be sent our login.
        """
        place, present = self._folder(name, number, dict.fromkeys(wanted, _MAX_FILE_BYTES))
        texts = {file: _ask(partial(artifact_stream.text, place, file, self._uri, _MAX_FILE_BYTES)) for file in present}
        return {file: text for file, text in texts.items() if text is not None}

    def adapter_files(self, name: str, number: int) -> AdapterFiles:
        """See `ModelRegistry`. The weights are read piece by piece."""
        limits = {ADAPTER_FILE: _MAX_FILE_BYTES, EVIDENCE_FILE: _MAX_FILE_BYTES, WEIGHTS_FILE: _MAX_WEIGHTS_BYTES}
        place, present = self._folder(name, number, limits)
        texts = {
            file: _ask(partial(artifact_stream.text, place, file, self._uri, _MAX_FILE_BYTES))
            for file in present
            if file != WEIGHTS_FILE
        }
        digest = None
        if WEIGHTS_FILE in present:
            digest = _ask(partial(artifact_stream.sha256, place, WEIGHTS_FILE, self._uri, _MAX_WEIGHTS_BYTES))
        return AdapterFiles(texts.get(ADAPTER_FILE), texts.get(EVIDENCE_FILE), digest)

    def _folder(self, name: str, number: int, limits: dict[str, int]) -> tuple[str, list[str]]:
        """The address of an adapter's files, and which of those in `limits` it has; `limits` gives each one's most bytes."""
        uri = _ask(lambda: self._client.get_model_version_download_uri(name, str(number)))
        if uri is None:
            return "", []
        place = f"{_proxied(uri)}/{ADAPTER_FOLDER}"
        present = []
        for info in _ask(lambda: mlflow.artifacts.list_artifacts(place, tracking_uri=self._uri)) or []:
            if (file := PurePosixPath(info.path).name) not in limits or info.is_dir:
                continue
            if (info.file_size or 0) > limits[file]:
                raise UnreadableFileError(f"{file} has {info.file_size} bytes; at most {limits[file]} are read")
            present.append(file)
        return place, present

    def set_alias(self, name: str, alias: str, number: int) -> bool:
        """See `ModelRegistry`."""

        def set_it() -> bool:
            self._client.set_registered_model_alias(name, alias, str(number))
            return True

        return number <= _MAX_VERSION and bool(_ask(set_it))

    def set_tag(self, name: str, number: int, key: str, value: str) -> bool:
        """See `ModelRegistry`."""

        def set_it() -> bool:
            self._client.set_model_version_tag(name, str(number), key, value)
            return True

        return number <= _MAX_VERSION and bool(_ask(set_it))

    def chain_head(self) -> str | None:
        """See `ModelRegistry`."""
        found = _ask(lambda: self._client.get_registered_model(CHAIN_MODEL))
        return dict(found.tags).get(TAG_CHAIN_HEAD) if found is not None else None

    def set_chain_head(self, value: str) -> None:
        """See `ModelRegistry`. The model is made where it is missing."""

        def set_it() -> bool:
            self._client.set_registered_model_tag(CHAIN_MODEL, TAG_CHAIN_HEAD, value)
            return True

        if not _ask(set_it):
            about = "Holds the newest hash of registry-api's decisions. It has no versions."
            _ask(lambda: self._client.create_registered_model(CHAIN_MODEL, description=about))
            _ask(set_it)


def _ask(question: Callable[[], T]) -> T | None:
    """Answers a question to MLflow; None where the server says that the thing asked about does not exist.

    Raises:
        InvalidArgumentError: the server refuses a value as such.
        TrackingUnavailableError: anything else; also a 404 that is not MLflow's own, or a login that the server refuses.
    """
    try:
        return question()
    except MlflowException as error:
        if error.error_code == _ABSENT:
            return None
        if error.error_code == _INVALID:
            raise InvalidArgumentError(f"MLflow refuses this: {error.message.removeprefix(f'{_INVALID}: ')}") from error
        raise TrackingUnavailableError from error
    except (RequestException, OSError, ValueError) as error:
        raise TrackingUnavailableError from error


def _proxied(uri: str) -> str:
    """The address of files that the tracking server itself hands out.

    Raises:
        UnreadableFileError: they are elsewhere, or the address is not in its one canonical spelling.
    """
    try:
        source = parse_source(uri)
    except IdentifierError as error:
        raise UnreadableFileError(f"its files are not kept by the tracking server: {error}") from error
    if source.kind != "mlflow-artifacts":
        raise UnreadableFileError(f"its files are not kept by the tracking server, and are not read from {uri!r}")
    return str(source)


def _check_token(page_token: str | None) -> None:
    """Refuses what MLflow's base64 decoder fails on with a status that looks like an outage."""
    if page_token is not None and not re.fullmatch(r"[A-Za-z0-9+/=_-]+", page_token):
        raise InvalidArgumentError(f"not a page token of the page before; received {page_token!r}")


def _quoted(name: str) -> str:
    """A name as a string of MLflow's filter language, which has two quotation marks and no way to escape them."""
    if "'" in name and '"' in name:
        raise InvalidArgumentError(
            f"a name with both kinds of quotes cannot be searched for; received {name!r}: rename the model"
        )
    return f'"{name}"' if "'" in name else f"'{name}'"


def _model(found: Any) -> Model:
    latest = max(map(_version, found.latest_versions or []), key=lambda version: version.number, default=None)
    aliases = {alias: int(number) for alias, number in found.aliases.items()}
    return Model(found.name, found.description or "", aliases, latest)


def _run(found: Any) -> Run:
    info, data = found.info, found.data
    return Run(info.run_id, info.run_name or "", info.status, dict(data.params), dict(data.metrics), dict(data.tags))


def _version(found: Any) -> Version:
    created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return Version(
        found.name, int(found.version), created, found.status, found.description or "", found.run_id or None, dict(found.tags)
    )
