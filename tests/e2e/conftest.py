"""The whole twin, started under its own project name and on its own ports."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ..containers import Project, need_engine

SETTINGS = {"FIRST_VERSION_STEPS": "4", "OMP_NUM_THREADS": "1"}  # more threads slow each other on a busy machine


class Twin(Project):
    """The project, and clients of its services."""

    current_secrets: dict[str, Any]
    """The secrets at the last start; reading them takes a container."""

    def secrets(self) -> dict[str, Any]:
        """Content of secrets.json."""
        text = self.compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "cat", "secrets", "/secrets/secrets.json")
        return json.loads(text)

    def tracking(self, user: str = "trainer") -> httpx.Client:
        """A client of tracking with the login of a user."""
        return httpx.Client(base_url=self.url("TRACKING_PORT"), auth=(user, self.current_secrets["logins"][user]), timeout=60)

    def api(self, port: str, role: str) -> httpx.Client:
        """A client of registry-api or infer with the token of a role."""
        login = {"Authorization": f"Bearer {self.current_secrets['tokens'][role]}"}
        return httpx.Client(base_url=self.url(port), headers=login, timeout=120)

    def up(self) -> None:
        """Starts the twin, and waits until it is ready."""
        self.compose("up", "--detach")
        self.compose("up", "--detach", "--wait", "--wait-timeout", "600", "tracking", "registry-api", "infer")
        self.current_secrets = self.secrets()

    def logs(self) -> str:
        return self.compose("logs", "--no-color")


@pytest.fixture(scope="session")
def twin() -> Iterator[Twin]:
    need_engine()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log thousands of requests
    twin = Twin("atelier-e2e", dict(SETTINGS))
    twin.remove()
    twin.up()
    yield twin
    twin.remove()
