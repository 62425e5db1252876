"""Runs MLflow and nginx, and exits when either exits. Standard library only, to keep its memory small."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from atelier_tracking.log import log_event
from atelier_tracking.server.readiness import CHECKS, DependencyMonitor, ReadinessFile, run_check

TICK_S = 0.25
MLFLOW_SHUTDOWN_S = 8
NGINX_ENVIRONMENT = ("PATH", "LANG", "TZ")
"""nginx gets no secrets."""
NET_BIND_SERVICE = 10
"""Bit of the capability; see capabilities(7)."""


def may_bind_low_ports(status: str) -> bool:
    """Whether the kernel executes a binary with the file capability NET_BIND_SERVICE.

    It does not if the bounding set in /proc/self/status, given as `status`, lacks the capability.
    """
    bounding = next(line for line in status.splitlines() if line.startswith("CapBnd:"))
    return bool(int(bounding.split()[1], 16) >> NET_BIND_SERVICE & 1)


def exit_code(code: int) -> int:
    """Exit code of the container after a child exited unexpectedly: that of a shell, but never 0."""
    return 128 - code if code < 0 else code or 1


class Supervisor:
    """Runs the two processes, updates the readiness file, and records the free space of the spool."""

    def __init__(self, run_dir: Path, spool_dir: Path, drain_timeout_s: int) -> None:
        self._run_dir = run_dir
        self._spool_dir = spool_dir
        self._drain_timeout_s = drain_timeout_s
        self._shutdown_requested = False
        self._free_bytes = -1
        socket = run_dir / "mlflow.sock"
        monitors = [DependencyMonitor(check, lambda check: run_check(socket, check)) for check in CHECKS]
        self._starting = run_dir / "state/starting"
        self._socket = socket
        self._monitors = monitors
        self._readiness = ReadinessFile(run_dir / "state/ready", monitors)

    def run(self) -> int:
        """Runs until a signal or the exit of a process; returns the exit code of the container."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request_shutdown)
        self._starting.write_text("starting\n")
        self._record_free_space()
        mlflow = subprocess.Popen(
            [sys.executable, "-m", "atelier_tracking.server.mlflow_server", str(self._socket), str(MLFLOW_SHUTDOWN_S)],
            cwd=self._spool_dir,
        )
        nginx = self._start_nginx()
        children = {"MLflow": mlflow, "nginx": nginx}
        while not self._shutdown_requested:
            for name, child in children.items():
                if (code := child.poll()) is not None:
                    log_event(f"{name} exited", exit_code=exit_code(code))
                    self._stop(nginx, mlflow, drain_s=0)
                    return exit_code(code)
            self._tick()
            time.sleep(TICK_S)
        log_event("shutting down", drain_timeout_s=self._drain_timeout_s)
        self._stop(nginx, mlflow, drain_s=self._drain_timeout_s)
        return 0

    def _request_shutdown(self, _signal: int, _frame: FrameType | None) -> None:
        self._shutdown_requested = True

    def _start_nginx(self) -> subprocess.Popen[bytes]:
        has_capability = may_bind_low_ports(Path("/proc/self/status").read_text())
        binary = "/usr/sbin/nginx-low-ports" if has_capability else "/usr/sbin/nginx"
        environment = {name: os.environ[name] for name in NGINX_ENVIRONMENT if name in os.environ}
        return subprocess.Popen(
            [binary, "-e", "stderr", "-p", str(self._run_dir), "-c", str(self._run_dir / "nginx.conf")],
            cwd=self._run_dir,
            env=environment,
        )

    def _tick(self) -> None:
        if self._starting.exists() and self._socket.exists():
            self._starting.unlink()
            for monitor in self._monitors:
                monitor.start()
        if not self._starting.exists():
            self._readiness.update()
        self._record_free_space()

    def _record_free_space(self) -> None:
        free_bytes = shutil.disk_usage(self._spool_dir).free
        if abs(free_bytes - self._free_bytes) > 1 << 20:
            self._free_bytes = free_bytes
            partial = self._run_dir / "state/free.new"
            partial.write_text(str(free_bytes))
            partial.replace(self._run_dir / "state/free")

    @staticmethod
    def _stop(nginx: subprocess.Popen[bytes], mlflow: subprocess.Popen[bytes], drain_s: int) -> None:
        """Stops nginx first, so that running requests can still use MLflow and no new ones are accepted."""
        steps = ((nginx, signal.SIGQUIT, drain_s), (nginx, signal.SIGTERM, 2), (mlflow, signal.SIGTERM, MLFLOW_SHUTDOWN_S))
        for child, number, timeout_s in (*steps, (nginx, signal.SIGKILL, 2), (mlflow, signal.SIGKILL, 2)):
            if child.poll() is None and (timeout_s or number != signal.SIGQUIT):
                child.send_signal(number)
                try:
                    child.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    continue


if __name__ == "__main__":
    sys.exit(Supervisor(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])).run())
