"""Files of runs and versions, as far as the tracking server itself serves them.

A version's location is whatever its author registered. A path would be read from this machine's disk, and another host would
receive this service's login, so neither is read.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import mlflow.artifacts
from atelier_contracts.identifiers import IdentifierError, parse_source
from atelier_contracts.names import ADAPTER_FILE, ADAPTER_FOLDER, EVIDENCE_FILE, PREVIEW_FILE, WEIGHTS_FILE
from atelier_contracts.styles import MAX_PREVIEW_BYTES
from mlflow.tracking import MlflowClient

from atelier_registry.errors import UnreadableFileError
from atelier_registry.models import artifact_stream
from atelier_registry.models.mlflow_client import call
from atelier_registry.models.model_registry import AdapterFiles, Image

_MAX_FILE_BYTES = 1 << 20
_MAX_WEIGHTS_BYTES = 2 << 30
_MAX_IMAGE_BYTES = 16 << 20
_IMAGE_PATH = re.compile(  # MLflow's log_image writes key, step and time into the name
    r"images/(?P<key>[^/%+]+)(?P<by>[%+])step(?P=by)(?P<step>\d+)(?P=by)timestamp(?P=by)\d+(?P=by)[0-9a-f-]+\.png"
)


class MlflowArtifacts:
    """Reads files through the tracking server. Safe to use from several threads."""

    def __init__(self, client: MlflowClient, tracking_uri: str) -> None:
        self._client, self._uri = client, tracking_uri

    def images(self, run_id: str) -> list[Image]:
        """Images that a run logged, by key and step."""
        artifacts = call(lambda: self._client.list_artifacts(run_id, "images")) or []
        matches = (match for artifact in artifacts if (match := _IMAGE_PATH.fullmatch(artifact.path)))
        images = [Image(match[0], match["key"].replace("~", "/"), int(match["step"])) for match in matches]
        return sorted(images, key=lambda image: (image.key, image.step))

    def image(self, run_id: str, path: str) -> bytes | None:
        """A PNG that a run logged; None for any other path."""
        run = call(lambda: self._client.get_run(run_id))
        if run is None or not _IMAGE_PATH.fullmatch(path):
            return None
        root = _served_uri(run.info.artifact_uri)
        with TemporaryDirectory() as folder:
            file = call(lambda: mlflow.artifacts.download_artifacts(f"{root}/{path}", dst_path=folder, tracking_uri=self._uri))
            if file is None or Path(file).stat().st_size > _MAX_IMAGE_BYTES:
                return None
            content = Path(file).read_bytes()
        return content if content.startswith(b"\x89PNG") else None

    def files(self, name: str, number: int, wanted: Collection[str]) -> dict[str, str]:
        """Texts of the requested files that the version has."""
        folder, present = self._folder(name, number, dict.fromkeys(wanted, _MAX_FILE_BYTES))
        return self._texts(folder, present)

    def adapter_files(self, name: str, number: int) -> AdapterFiles:
        """An adapter's files; the weights are hashed in chunks."""
        binary = {WEIGHTS_FILE: _MAX_WEIGHTS_BYTES, PREVIEW_FILE: MAX_PREVIEW_BYTES}
        folder, present = self._folder(name, number, {ADAPTER_FILE: _MAX_FILE_BYTES, EVIDENCE_FILE: _MAX_FILE_BYTES} | binary)
        texts = self._texts(folder, [file for file in present if file not in binary])
        digests = {
            file: call(partial(artifact_stream.sha256, folder, file, self._uri, limit))
            for file, limit in binary.items()
            if file in present
        }
        return AdapterFiles(
            texts.get(ADAPTER_FILE), texts.get(EVIDENCE_FILE), digests.get(WEIGHTS_FILE), digests.get(PREVIEW_FILE)
        )

    def preview(self, name: str, number: int) -> bytes | None:
        """The preview's bytes as they are stored; None without one."""
        folder, present = self._folder(name, number, {PREVIEW_FILE: MAX_PREVIEW_BYTES})
        if not present:
            return None
        return call(lambda: b"".join(artifact_stream.stream(folder, PREVIEW_FILE, self._uri, MAX_PREVIEW_BYTES)))

    def _texts(self, folder: str, files: list[str]) -> dict[str, str]:
        texts = {file: call(partial(artifact_stream.text, folder, file, self._uri, _MAX_FILE_BYTES)) for file in files}
        return {file: text for file, text in texts.items() if text is not None}

    def _folder(self, name: str, number: int, limits: dict[str, int]) -> tuple[str, list[str]]:
        """Address of a version's adapter folder, and which of the files in `limits` (name to maximum bytes) it holds."""
        uri = call(lambda: self._client.get_model_version_download_uri(name, str(number)))
        if uri is None:
            return "", []
        folder = f"{_served_uri(uri)}/{ADAPTER_FOLDER}"
        present = []
        for artifact in call(lambda: mlflow.artifacts.list_artifacts(folder, tracking_uri=self._uri)) or []:
            if (file := PurePosixPath(artifact.path).name) not in limits or artifact.is_dir:
                continue
            if (artifact.file_size or 0) > limits[file]:
                raise UnreadableFileError(f"{file} has {artifact.file_size} bytes; the limit is {limits[file]}")
            present.append(file)
        return folder, present


def _served_uri(uri: str) -> str:
    """The address, if the tracking server itself serves its files.

    Raises:
        UnreadableFileError: it does not, or the address is not in its canonical spelling.
    """
    try:
        source = parse_source(uri)
    except IdentifierError as error:
        raise UnreadableFileError(f"its files are not stored by the tracking server: {error}") from error
    if source.kind != "mlflow-artifacts":
        raise UnreadableFileError(f"its files are not stored by the tracking server, and are not read from {uri!r}")
    return str(source)
