"""Starts the three services as processes on loopback, watches them, and stops them with their child processes."""

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

import httpx

from atelier_embedded.errors import ServiceStopped, StageFailed
from atelier_embedded.workspace import MODEL, Workspace

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
POLL_INTERVAL_S = 0.2
PORTS = {"tracking": 5000, "registry-api": 8001, "infer": 8002}  # preferred; a free one where another program has it


@dataclass(frozen=True)
class ServiceSpec:
    """How to start a service.

    Attributes:
        name: of the service.
        module: command line after `python -m`.
        port: that it will listen on.
        environment: variables in addition to the workspace's.
        health: path that answers 200 once it is ready.
    """

    name: str
    module: Sequence[str]
    port: int
    environment: Mapping[str, str]
    health: str


@dataclass
class Service:
    """A running process and its address."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    log: Path


class ProcessManager:
    """The running services, in the order they were started."""

    def __init__(self) -> None:
        self._services: list[Service] = []

    def url(self, name: str) -> str:
        return next(service.url for service in self._services if service.name == name)

    def start(self, spec: ServiceSpec, workspace: Workspace) -> None:
        """Starts a process in a session of its own, so that Ctrl-C reaches this one alone, and waits until it is ready.

        Raises:
            ServiceStopped: it ended, or did not become ready in READY_TIMEOUT_S.
        """
        log = workspace.log(spec.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", *spec.module],
                env={**workspace.environment(), **spec.environment},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        service = Service(spec.name, process, f"http://127.0.0.1:{spec.port}", log)
        self._services.append(service)
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(service.url + spec.health, timeout=5).status_code == 200:
                    return
            time.sleep(POLL_INTERVAL_S)
        raise ServiceStopped(f"{spec.name} was not ready after {READY_TIMEOUT_S:.0f} s; see {log}")

    def check(self) -> None:
        """Raises ServiceStopped, with the last line of the log, if a service has ended."""
        for service in self._services:
            if (code := service.process.poll()) is not None:
                status = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                raise ServiceStopped(f"{service.name} stopped ({status}): {last_line(service.log)}; see {service.log}")

    def run(self, command: Sequence[str], environment: Mapping[str, str], name: str) -> None:
        """Runs a command to its end, with its output on this terminal, while watching the services.

        Args:
            command: the command.
            environment: its whole environment.
            name: of the command in an error message.

        Raises:
            ServiceStopped: a service ended meanwhile; the command is stopped first.
            StageFailed: the command's exit code was not 0.
        """
        process = subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            while (code := process.poll()) is None:
                self.check()
                time.sleep(POLL_INTERVAL_S)
        finally:
            _stop(process, signal.SIGINT)
        if code:
            raise StageFailed(f"{name} ended with exit code {code}")

    def stop(self) -> None:
        """Stops all services, the last one started first. A second Ctrl-C cannot leave one behind."""
        with _ignore_signals():
            for service in reversed(self._services):
                _stop(service.process, signal.SIGTERM)
            self._services.clear()


@contextlib.contextmanager
def running_services(workspace: Workspace) -> Iterator[ProcessManager]:
    """Tracking, registry-api and infer on the workspace; stopped at the end, whatever ends it."""
    services = ProcessManager()
    try:
        port = free_port("tracking")
        services.start(_tracking(workspace, port), workspace)
        # the two call each other: infer stages versions for registry-api's rules, and follows its events
        ports = {name: free_port(name) for name in ("registry-api", "infer")}
        services.start(_registry_api(workspace, ports, services.url("tracking")), workspace)
        services.start(_infer(workspace, ports, services.url("tracking")), workspace)
        yield services
    finally:
        services.stop()


def _tracking(workspace: Workspace, port: int) -> ServiceSpec:
    module = [
        *("mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{workspace.database}"),
        *("--artifacts-destination", str(workspace.artifacts)),
    ]
    return ServiceSpec("tracking", module, port, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, "/health")


def _registry_api(workspace: Workspace, ports: Mapping[str, int], tracking: str) -> ServiceSpec:
    environment = {
        "ATELIER_REGISTRY_PORT": str(ports["registry-api"]),
        "ATELIER_REGISTRY_TRACKING_URI": tracking,
        "ATELIER_REGISTRY_DATABASE_URL": f"sqlite:///{workspace.decisions}",
        "ATELIER_REGISTRY_TOKEN_FILE": str(workspace.token_file),
        "ATELIER_REGISTRY_INFER_URL": f"http://127.0.0.1:{ports['infer']}",
        "ATELIER_REGISTRY_INFER_TOKEN": workspace.secret("promoter"),
    }
    return ServiceSpec("registry-api", ["atelier_registry"], ports["registry-api"], environment, "/readyz")


def _infer(workspace: Workspace, ports: Mapping[str, int], tracking: str) -> ServiceSpec:
    environment = {
        "ATELIER_INFER_PORT": str(ports["infer"]),
        "ATELIER_INFER_TRACKING_URI": tracking,
        "ATELIER_INFER_MODEL": MODEL,
        "ATELIER_INFER_TOKEN_FILE": str(workspace.token_file),
        "ATELIER_INFER_REGISTRY_URL": f"http://127.0.0.1:{ports['registry-api']}",
        "ATELIER_INFER_REGISTRY_TOKEN": workspace.secret("reader"),
        "ATELIER_INFER_CACHE_DIR": str(workspace.cache / "infer"),
    }
    return ServiceSpec("infer", ["atelier_infer"], ports["infer"], environment, "/readyz")


def free_port(name: str) -> int:
    """The service's preferred port, or a free one where that is taken."""
    for port in (PORTS[name], 0):
        with socket.socket() as test_socket:
            test_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                test_socket.bind(("127.0.0.1", port))
                return int(test_socket.getsockname()[1])
    raise ServiceStopped(f"no free port on 127.0.0.1 for {name}")


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def _stop(process: subprocess.Popen[bytes], first: signal.Signals) -> None:
    """Signals the process, then kills its whole group: MLflow has worker processes."""
    for number, wait_s in ((first, STOP_TIMEOUT_S), (signal.SIGKILL, STOP_TIMEOUT_S)):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _ignore_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM have no effect."""
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
