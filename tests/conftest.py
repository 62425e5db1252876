"""What several groups of tests need, made once per session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .servers import MlflowServer, mlflow_running


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server, the same for all tests that ask for it."""
    with mlflow_running(tmp_path_factory.mktemp("mlflow")) as server:
        yield server
