"""Runs MLflow and nginx, and ends when either does. Standard library only, because it stays in memory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from atelier_tracking.log import say
from atelier_tracking.server.readiness import QUESTIONS, Ready, Watch, ask

TICK_S = 0.25
MLFLOW_END_S = 8
NGINX_SEES = ("PATH", "LANG", "TZ")
"""nginx is not told the secrets that are in the environment."""
NET_BIND_SERVICE = 10
"""Number of the capability, from capabilities(7)."""


def may_bind_low_ports(status: str) -> bool:
    """Whether a binary with the file capability can be executed at all.

    Args:
        status: text of /proc/self/status. Where the bounding set lacks the capability, the kernel refuses to execute the file.
    """
    bounding = next(line for line in status.splitlines() if line.startswith("CapBnd:"))
    return bool(int(bounding.split()[1], 16) >> NET_BIND_SERVICE & 1)


def exit_code(code: int) -> int:
    """A shell's reading of a child's end; an end that nobody asked for is never a success."""
    return 128 - code if code < 0 else code or 1


class Supervisor:
    """The two children, the readiness file and the free space of the spool."""

    def __init__(self, run_dir: Path, spool_dir: Path, drain_timeout_s: int) -> None:
        self._run_dir = run_dir
        self._spool_dir = spool_dir
        self._drain_timeout_s = drain_timeout_s
        self._asked_to_end = False
        self._free = -1
        socket = run_dir / "mlflow.sock"
        watches = [Watch(question, lambda question: ask(socket, question)) for question in QUESTIONS]
        self._starting = run_dir / "state/starting"
        self._socket = socket
        self._watches = watches
        self._ready = Ready(run_dir / "state/ready", watches)

    def run(self) -> int:
        """Returns the container's exit code."""
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, self._end)
        self._starting.write_text("starting\n")
        self._note_free_space()
        mlflow = subprocess.Popen(
            [sys.executable, "-m", "atelier_tracking.server.mlflow_server", str(self._socket), str(MLFLOW_END_S)],
            cwd=self._spool_dir,
        )
        nginx = self._start_nginx()
        children = {"MLflow": mlflow, "nginx": nginx}
        while not self._asked_to_end:
            for name, child in children.items():
                if (code := child.poll()) is not None:
                    say(f"{name} ended by itself, so the container ends", code=exit_code(code))
                    self._stop(nginx, mlflow, drain_s=0)
                    return exit_code(code)
            self._tick()
            time.sleep(TICK_S)
        say("asked to end; running requests are finished", patience_s=self._drain_timeout_s)
        self._stop(nginx, mlflow, drain_s=self._drain_timeout_s)
        return 0

    def _end(self, _signal: int, _frame: FrameType | None) -> None:
        self._asked_to_end = True

    def _start_nginx(self) -> subprocess.Popen[bytes]:
        able = may_bind_low_ports(Path("/proc/self/status").read_text())
        binary = "/usr/sbin/nginx-low-ports" if able else "/usr/sbin/nginx"
        environment = {name: os.environ[name] for name in NGINX_SEES if name in os.environ}
        return subprocess.Popen(
            [binary, "-e", "stderr", "-p", str(self._run_dir), "-c", str(self._run_dir / "nginx.conf")],
            cwd=self._run_dir,
            env=environment,
        )

    def _tick(self) -> None:
        if self._starting.exists() and self._socket.exists():
            self._starting.unlink()
            for watch in self._watches:
                watch.start()
        if not self._starting.exists():
            self._ready.update()
        self._note_free_space()

    def _note_free_space(self) -> None:
        free = shutil.disk_usage(self._spool_dir).free
        if abs(free - self._free) > 1 << 20:
            self._free = free
            aside = self._run_dir / "state/free.new"
            aside.write_text(str(free))
            aside.replace(self._run_dir / "state/free")

    @staticmethod
    def _stop(nginx: subprocess.Popen[bytes], mlflow: subprocess.Popen[bytes], drain_s: int) -> None:
        """The proxy first, so that nothing new comes in and what runs can still reach MLflow."""
        steps = ((nginx, signal.SIGQUIT, drain_s), (nginx, signal.SIGTERM, 2), (mlflow, signal.SIGTERM, MLFLOW_END_S))
        for child, sign, patience_s in (*steps, (nginx, signal.SIGKILL, 2), (mlflow, signal.SIGKILL, 2)):
            if child.poll() is None and (patience_s or sign != signal.SIGQUIT):
                child.send_signal(sign)
                try:
                    child.wait(patience_s)
                except subprocess.TimeoutExpired:
                    continue


if __name__ == "__main__":
    sys.exit(Supervisor(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])).run())
