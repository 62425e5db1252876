"""Starts the three services as processes on loopback, watches them, and stops them with everything they started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from atelier_embedded.errors import ServiceStopped, StageFailed
from atelier_embedded.workspace import MODEL, Workspace

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.2
PORTS = {"tracking": 5000, "registry-api": 8001, "infer": 8002}  # wished for; a free one is taken where another program has it


@dataclass
class Service:
    """One running process and where it answers."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    log: Path


class Services:
    """The running services, in the order they were started."""

    def __init__(self) -> None:
        self._running: list[Service] = []

    def url(self, name: str) -> str:
        """Address of one service."""
        return next(service.url for service in self._running if service.name == name)

    def start(
        self, name: str, command: Sequence[str], port: int, environment: Mapping[str, str], log: Path, health: str
    ) -> None:
        """Starts a process in a session of its own, so that Ctrl-C reaches only us, and waits until it is ready.

        Raises:
            ServiceStopped: it ended, or did not become ready in READY_TIMEOUT_S.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
            )
        service = Service(name, process, f"http://127.0.0.1:{port}", log)
        self._running.append(service)
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(service.url + health, timeout=5).status_code == 200:
                    return
            time.sleep(POLL_S)
        raise ServiceStopped(f"{name} was not ready after {READY_TIMEOUT_S:.0f} s; see {log}")

    def check(self) -> None:
        """Raises ServiceStopped, with the last line of its log, if a service has ended."""
        for service in self._running:
            if (code := service.process.poll()) is not None:
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                raise ServiceStopped(f"{service.name} stopped ({how}): {last_line(service.log)}; see {service.log}")

    def run(self, command: Sequence[str], environment: Mapping[str, str], output: IO[bytes] | None, what: str) -> None:
        """Runs a command to its end while watching the services.

        Args:
            command: the command.
            environment: all of its environment.
            output: where its output goes; None for this terminal.
            what: what an error calls it.

        Raises:
            ServiceStopped: a service ended meanwhile; the command is stopped first.
            StageFailed: the command's exit code was not 0.
        """
        process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            while (code := process.poll()) is None:
                self.check()
                time.sleep(POLL_S)
        finally:
            _stop(process, signal.SIGINT)
        if code:
            raise StageFailed(f"{what} ended with exit code {code}")

    def stop(self) -> None:
        """Stops all services, the last one started first. A second Ctrl-C cannot leave one behind."""
        with _deaf():
            for service in reversed(self._running):
                _stop(service.process, signal.SIGTERM)
            self._running.clear()


@contextlib.contextmanager
def running(workspace: Workspace) -> Iterator[Services]:
    """Tracking, registry-api and infer on what the workspace holds; stopped at the end, however it comes."""
    services = Services()
    environment = workspace.environment()
    try:
        port = free_port("tracking")
        services.start(
            "tracking",
            [
                *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)),
                *("--backend-store-uri", f"sqlite:///{workspace.database}"),
                *("--artifacts-destination", str(workspace.artifacts)),
            ],
            port,
            environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            workspace.log("tracking"),
            "/health",
        )
        tracking = services.url("tracking")
        # each of the two is told where the other one is: one stages versions for the other's rules, and follows its events
        port, infer_port = free_port("registry-api"), free_port("infer")
        services.start(
            "registry-api",
            [sys.executable, "-m", "atelier_registry"],
            port,
            environment
            | {
                "ATELIER_REGISTRY_PORT": str(port),
                "ATELIER_REGISTRY_TRACKING_URI": tracking,
                "ATELIER_REGISTRY_DATABASE_URL": f"sqlite:///{workspace.decisions}",
                "ATELIER_REGISTRY_TOKEN_FILE": str(workspace.token_file),
                "ATELIER_REGISTRY_INFER_URL": f"http://127.0.0.1:{infer_port}",
                "ATELIER_REGISTRY_INFER_TOKEN": workspace.secret("promoter"),
            },
            workspace.log("registry-api"),
            "/readyz",
        )
        services.start(
            "infer",
            [sys.executable, "-m", "atelier_infer"],
            infer_port,
            environment
            | {
                "ATELIER_INFER_PORT": str(infer_port),
                "ATELIER_INFER_TRACKING_URI": tracking,
                "ATELIER_INFER_MODEL": MODEL,
                "ATELIER_INFER_TOKEN_FILE": str(workspace.token_file),
                "ATELIER_INFER_REGISTRY_URL": services.url("registry-api"),
                "ATELIER_INFER_REGISTRY_TOKEN": workspace.secret("reader"),
                "ATELIER_INFER_CACHE_DIR": str(workspace.cache / "infer"),
            },
            workspace.log("infer"),
            "/readyz",
        )
        yield services
    finally:
        services.stop()


def free_port(name: str) -> int:
    """The service's usual port, or a free one where that is taken."""
    for port in (PORTS[name], 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise ServiceStopped(f"no free port on 127.0.0.1 for {name}")


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def _stop(process: subprocess.Popen[bytes], first: signal.Signals) -> None:
    """Asks the process, then ends its whole group: MLflow has workers of its own."""
    for sign, wait_s in ((first, STOP_TIMEOUT_S), (signal.SIGKILL, STOP_TIMEOUT_S)):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ignores Ctrl-C and SIGTERM while stopping."""
    before = {sign: signal.signal(sign, signal.SIG_IGN) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
