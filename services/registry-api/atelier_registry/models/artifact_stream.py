"""Files that the tracking server hands out, read piece by piece: nothing is written to a disk or held as a whole."""

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

_PIECE_BYTES = 1 << 20


def stream(folder_uri: str, file: str, tracking_uri: str, most_bytes: int) -> Iterator[bytes]:
    """The bytes of one file, with MLflow's own login.

    Args:
        folder_uri: `mlflow-artifacts:/…`, parsed before.
        file: its name in the folder.
        tracking_uri: of the server.
        most_bytes: that are read, whatever the server said before about its size.

    Raises:
        UnreadableFileError: the file is larger.
        MlflowException: the server says that there is no such file, with that error code.
        RequestException: it does not answer, or with another error.
    """
    place: Any = get_artifact_repository(folder_uri, tracking_uri=tracking_uri)
    answer = http_request(get_default_host_creds(place.artifact_uri), f"/{file}", "GET", stream=True)
    with closing(answer):
        if answer.status_code == 404 and b"RESOURCE_DOES_NOT_EXIST" in answer.content:
            raise MlflowException(f"no file {file}", error_code=RESOURCE_DOES_NOT_EXIST)
        augmented_raise_for_status(answer)
        size = 0
        for piece in answer.iter_content(_PIECE_BYTES):
            size += len(piece)
            if size > most_bytes:
                raise UnreadableFileError(f"{file} has more than {most_bytes} bytes, which is as many as are read")
            yield piece


def sha256(folder_uri: str, file: str, tracking_uri: str, most_bytes: int) -> str:
    """Of a file's bytes, in hexadecimal; see `stream`."""
    found = hashlib.sha256()
    for piece in stream(folder_uri, file, tracking_uri, most_bytes):
        found.update(piece)
    return found.hexdigest()


def text(folder_uri: str, file: str, tracking_uri: str, most_bytes: int) -> str:
    """A small file as text; what is no UTF-8 is replaced; see `stream`."""
    return b"".join(stream(folder_uri, file, tracking_uri, most_bytes)).decode("utf-8", "replace")
