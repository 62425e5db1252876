"""Calls to MLflow: configures its client, and translates its exceptions. They do not leave this module's callers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException

from atelier_registry.errors import InvalidArgumentError, TrackingUnavailableError

T = TypeVar("T")

_NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"
_INVALID = "INVALID_PARAMETER_VALUE"


def configure_client(timeout_s: int) -> None:
    """Sets MLflow's own variables so that an unreachable server costs a request at most `2 * timeout_s`.

    The defaults retry for minutes. One retry remains, for a kept-alive connection that the server has closed. Presigned
    downloads are off: the files are small, and the addresses may be unreachable from here. Telemetry and progress bars are off.
    """
    os.environ |= {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
        "MLFLOW_HTTP_POOL_MAXSIZE": "40",  # the number of worker threads
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def call(request: Callable[[], T]) -> T | None:
    """Runs a request to MLflow; None where the server says that the object does not exist.

    Raises:
        InvalidArgumentError: the server does not accept a value.
        TrackingUnavailableError: any other error, including a 404 that is not MLflow's own and a refused login.
    """
    try:
        return request()
    except MlflowException as error:
        if error.error_code == _NOT_FOUND:
            return None
        if error.error_code == _INVALID:
            raise InvalidArgumentError(f"MLflow refuses this: {error.message.removeprefix(f'{_INVALID}: ')}") from error
        raise TrackingUnavailableError from error
    except (RequestException, OSError, ValueError) as error:
        raise TrackingUnavailableError from error
