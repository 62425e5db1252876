"""Reads files that the tracking server serves, in chunks: nothing is written to disk or held in memory as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import augmented_raise_for_status, http_request

from atelier_registry.errors import UnreadableFileError

_CHUNK_BYTES = 1 << 20


def stream(folder_uri: str, file: str, tracking_uri: str, max_bytes: int) -> Iterator[bytes]:
    """The bytes of one file, read with MLflow's own credentials.

    Args:
        folder_uri: `mlflow-artifacts:/…`, already validated.
        file: its name in the folder.
        tracking_uri: of the server.
        max_bytes: limit, whatever size the server announced.

    Raises:
        UnreadableFileError: the file is larger.
        MlflowException: the server has no such file, with that error code.
        RequestException: the server does not answer, or with another error.
    """
    repository: Any = get_artifact_repository(folder_uri, tracking_uri=tracking_uri)
    response = http_request(get_default_host_creds(repository.artifact_uri), f"/{file}", "GET", stream=True)
    with closing(response):
        if response.status_code == 404 and b"RESOURCE_DOES_NOT_EXIST" in response.content:
            raise MlflowException(f"no file {file}", error_code=RESOURCE_DOES_NOT_EXIST)
        augmented_raise_for_status(response)
        size = 0
        for chunk in response.iter_content(_CHUNK_BYTES):
            size += len(chunk)
            if size > max_bytes:
                raise UnreadableFileError(f"{file} has more than {max_bytes} bytes, the limit for this file")
            yield chunk


def sha256(folder_uri: str, file: str, tracking_uri: str, max_bytes: int) -> str:
    """In hexadecimal. Arguments and errors are those of `stream`."""
    hasher = hashlib.sha256()
    for chunk in stream(folder_uri, file, tracking_uri, max_bytes):
        hasher.update(chunk)
    return hasher.hexdigest()


def text(folder_uri: str, file: str, tracking_uri: str, max_bytes: int) -> str:
    """A small file as text; invalid UTF-8 is replaced. Arguments and errors are those of `stream`."""
    return b"".join(stream(folder_uri, file, tracking_uri, max_bytes)).decode("utf-8", "replace")
