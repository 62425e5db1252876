"""Docker for the tests that need it: a tier that was asked for fails where no engine answers."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .servers import free_port

ROOT = Path(__file__).parents[1]
HELPER = "python:3.11-slim-bookworm"
PORTS = ("TRACKING_PORT", "REGISTRY_API_PORT", "INFER_PORT", "S3_PORT")


def docker(*arguments: str, check: bool = True, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
    """One docker command; its output is in the failure."""
    ended = subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    if check and ended.returncode:
        pytest.fail(
            f"docker {' '.join(arguments)} ended with {ended.returncode}:\n{ended.stdout[-2000:]}{ended.stderr[-4000:]}"
        )
    return ended


def need_engine() -> None:
    """Fails where Docker is missing."""
    try:
        ended = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, timeout=60
        )
    except FileNotFoundError:
        pytest.fail("these tests need Docker: the command `docker` is missing")
    if ended.returncode:
        pytest.fail(f"these tests need a running Docker engine: {ended.stderr.strip()}")


def until(what: str, ask: Callable[[], Any], patience_s: float = 600, pause_s: float = 0.5) -> Any:
    """The first true answer; an exception counts as none."""
    deadline, last = time.monotonic() + patience_s, None
    while time.monotonic() < deadline:
        try:
            if answer := ask():
                return answer
        except Exception as error:  # noqa: BLE001  # what is asked may fail in any way until it is there
            last = error
        time.sleep(pause_s)
    pytest.fail(f"not within {patience_s:.0f} s: {what} (last: {last!r})")


@dataclass
class Project:
    """compose.yaml under a name and on ports of its own."""

    name: str
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Takes free ports."""
        self.settings = {name: str(free_port()) for name in PORTS} | self.settings

    def compose(self, *arguments: str, check: bool = True, both: bool = False, timeout_s: float = 600) -> str:
        """Standard output of one command; standard error too, where `both` is asked for."""
        command = ["docker", "compose", "--ansi", "never", "--project-name", self.name, "--file", "compose.yaml", *arguments]
        ended = subprocess.run(
            command, cwd=ROOT, env=os.environ | self.settings, capture_output=True, text=True, timeout=timeout_s
        )
        if check and ended.returncode:
            logs = self.compose("logs", "--tail", "30", check=False) if arguments[0] != "logs" else ""
            pytest.fail(
                f"docker compose {' '.join(arguments)} ended with {ended.returncode}:\n{ended.stderr[-3000:]}\n{logs[-6000:]}"
            )
        return ended.stdout + (ended.stderr if both else "")

    def url(self, port: str) -> str:
        """Where a published port answers."""
        return f"http://127.0.0.1:{self.settings[port]}"

    def states(self) -> dict[str, dict[str, Any]]:
        """What Docker says of each container, by service."""
        lines = self.compose("ps", "--all", "--format", "json").splitlines()
        return {state["Service"]: state for state in map(json.loads, lines)}

    def kill(self, service: str) -> None:
        """SIGKILL to a container's first process, as a crash is: `docker kill` would switch its restart policy off."""
        container = self.compose("ps", "--quiet", service).strip()
        pid = docker("inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
        docker("run", "--rm", "--privileged", "--pid=host", "--network=none", HELPER, "sh", "-c", f"kill -9 {pid}")

    def remove(self) -> None:
        """Containers, networks and volumes."""
        self.compose("--profile", "trainer", "down", "--volumes", "--remove-orphans", "--timeout", "2")
