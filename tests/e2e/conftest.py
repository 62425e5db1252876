"""The whole twin, brought up by these tests under a name and on ports of its own."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ..containers import Project, need_engine

SMALL = {"FIRST_VERSION_STEPS": "4", "OMP_NUM_THREADS": "1"}  # threads that wait for each other starve on a busy machine


class Twin(Project):
    """The project, and how to talk to its services as a person does."""

    known: dict[str, Any]
    """The secrets as they were at the last start: asking for them takes a container."""

    def secrets(self) -> dict[str, Any]:
        """Everything, as root of the secrets' container sees it."""
        told = self.compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "cat", "secrets", "/secrets/secrets.json")
        return json.loads(told)

    def tracking(self, user: str = "trainer") -> httpx.Client:
        """MLflow through nginx, logged in."""
        return httpx.Client(base_url=self.url("TRACKING_PORT"), auth=(user, self.known["logins"][user]), timeout=60)

    def api(self, port: str, role: str) -> httpx.Client:
        """registry-api or infer, with the token of a role."""
        login = {"Authorization": f"Bearer {self.known['tokens'][role]}"}
        return httpx.Client(base_url=self.url(port), headers=login, timeout=120)

    def up(self) -> None:
        """Starts, and waits until it is ready."""
        self.compose("up", "--detach")
        self.compose("up", "--detach", "--wait", "--wait-timeout", "600", "tracking", "registry-api", "infer")
        self.known = self.secrets()

    def logs(self) -> str:
        """Everything that was said so far."""
        return self.compose("logs", "--no-color")


@pytest.fixture(scope="session")
def twin() -> Iterator[Twin]:
    need_engine()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # thousands of requests, a line each
    twin = Twin("atelier-e2e", dict(SMALL))
    twin.remove()
    twin.up()
    yield twin
    twin.remove()
