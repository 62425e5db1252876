"""Starting, awaiting and ending servers as processes on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, patience_s: float = 120) -> None:
    """Returns when the address answers 200; fails with the process's log where it ended or took too long."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"{url} never answered; exit status {process.poll()}; its log ends:\n{log.read_text()[-3000:]}")


@contextlib.contextmanager
def app_running(app: Any) -> Iterator[str]:
    """uvicorn with an application in a thread of this process; yields its address. Streams must end before the block."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, timeout_graceful_shutdown=10)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the service did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that was started in a session of its own, with its children."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


@dataclass(frozen=True)
class MlflowServer:
    """Where it answers, and the SQLite file that it keeps everything in."""

    uri: str
    database: Path


@contextlib.contextmanager
def mlflow_running(folder: Path, port: int | None = None) -> Iterator[MlflowServer]:
    """A real MLflow server on what lies in the folder; the test fails where it cannot be started."""
    server = MlflowServer(f"http://127.0.0.1:{port or free_port()}", folder / "mlflow.db")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", server.uri.rpartition(":")[2]]
    command += ["--backend-store-uri", f"sqlite:///{server.database}", "--artifacts-destination", str(folder / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--workers", "1"], stdout=output, stderr=output, env=os.environ | quiet, start_new_session=True
        )
    try:
        wait_for(f"{server.uri}/health", process, log)
        yield server
    finally:
        end(process)
