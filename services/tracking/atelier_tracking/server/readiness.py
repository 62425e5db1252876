"""Readiness: whether MLflow can use the database and the bucket, checked through MLflow's own API."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atelier_tracking.log import log_event

RESPONSE_TIMEOUT_S = 15.0
"""A check without a response for this long counts as failed. It keeps running: a second one would occupy another thread."""

NOT_CHECKED = "not checked yet"


@dataclass(frozen=True)
class DependencyCheck:
    """A request to MLflow that uses one of its dependencies.

    Attributes:
        name: name of the dependency in the log.
        path: path of the request.
        success_statuses: statuses that prove that the dependency was used.
        interval_s: seconds between two checks while the dependency is available.
    """

    name: str
    path: str
    success_statuses: tuple[int, ...]
    interval_s: float


CHECKS = (
    DependencyCheck("database", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default", (200, 404), 5),
    DependencyCheck("bucket", "/api/2.0/mlflow-artifacts/artifacts?path=readiness", (200,), 30),
)
RETRY_S = 2.0


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("tracking", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def run_check(socket_path: Path, check: DependencyCheck, timeout_s: float = 600) -> str | None:
    """Sends one request.

    Args:
        socket_path: MLflow's Unix socket.
        check: the request.
        timeout_s: seconds to wait for the response.

    Returns:
        None if the dependency is available, otherwise the reason in one line.
    """
    connection = UnixConnection(socket_path, timeout_s)
    try:
        connection.request("GET", check.path)
        response = connection.getresponse()
        body = response.read(65536)
    except OSError as error:
        return f"MLflow does not respond: {error}"
    finally:
        connection.close()
    if response.status in check.success_statuses:
        return None
    try:
        message = json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        message = body.decode(errors="replace")
    return f"status {response.status}: {' '.join(str(message).split())[:500]}"


class DependencyMonitor:
    """Repeats a check in its own thread."""

    def __init__(self, check: DependencyCheck, run: Callable[[DependencyCheck], str | None]) -> None:
        self.check = check
        self._run = run
        self._reason: str | None = NOT_CHECKED
        self._running_since: float | None = None

    def start(self) -> None:
        """Starts a daemon thread."""
        threading.Thread(target=self._run_forever, name=self.check.name, daemon=True).start()

    def run_once(self) -> None:
        self._running_since = time.monotonic()
        self._reason = self._run(self.check)
        self._running_since = None

    def reason(self) -> str | None:
        """Why the dependency is unavailable; None if it is available."""
        since = self._running_since
        if since is not None and time.monotonic() - since > RESPONSE_TIMEOUT_S:
            return f"no response for {RESPONSE_TIMEOUT_S:.0f} s"
        return self._reason

    def _run_forever(self) -> None:
        while True:
            self.run_once()
            time.sleep(self.check.interval_s if self._reason is None else RETRY_S)


class ReadinessFile:
    """The file that nginx serves as /readyz; it exists while all dependencies are available. Changes are logged once."""

    def __init__(self, file: Path, monitors: list[DependencyMonitor]) -> None:
        self._file = file
        self._monitors = monitors
        self._logged: dict[str, set[str | None]] = {monitor.check.name: {NOT_CHECKED} for monitor in monitors}

    def update(self) -> None:
        """Writes or removes the file, and logs changes."""
        reasons = {monitor.check.name: monitor.reason() for monitor in self._monitors}
        for name, reason in reasons.items():
            if reason not in self._logged[name]:
                log_event(f"{name} available") if reason is None else log_event(f"{name} unavailable", reason=reason)
                # alternating reasons are not logged again until the dependency was available
                self._logged[name] = {reason} if reason is None else (self._logged[name] - {None}) | {reason}
        if any(reason is not None for reason in reasons.values()):
            self._file.unlink(missing_ok=True)
        elif not self._file.exists():
            self._file.write_text("ready\n")
            log_event("ready")
