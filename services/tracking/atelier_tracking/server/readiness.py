"""Whether MLflow reaches the database and the bucket, asked of MLflow itself, so that what is checked is what is used."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atelier_tracking.log import say

PATIENCE_S = 15.0
"""A question that is not answered for so long counts as a no; it goes on: a second one would take another thread of MLflow."""


@dataclass(frozen=True)
class Question:
    """One thing that MLflow needs.

    Attributes:
        name: as it is logged.
        path: of MLflow, that answers from that thing.
        fine: statuses that show that it was reached.
        interval_s: seconds between two questions while all is well.
    """

    name: str
    path: str
    fine: tuple[int, ...]
    interval_s: float


QUESTIONS = (
    Question("database", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default", (200, 404), 5),
    Question("bucket", "/api/2.0/mlflow-artifacts/artifacts?path=readiness", (200,), 30),
)
RETRY_S = 2.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("tracking", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, question: Question, timeout_s: float = 600) -> str | None:
    """Asks once.

    Args:
        path: MLflow's socket.
        question: what to ask.
        timeout_s: for the answer.

    Returns:
        None when the thing was reached, otherwise why not, in one line.
    """
    connection = UnixConnection(path, timeout_s)
    try:
        connection.request("GET", question.path)
        answer = connection.getresponse()
        body = answer.read(65536)
    except OSError as error:
        return f"MLflow does not answer: {error}"
    finally:
        connection.close()
    if answer.status in question.fine:
        return None
    try:
        message = json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        message = body.decode(errors="replace")
    return f"status {answer.status}: {' '.join(str(message).split())[:500]}"


class Watch:
    """Keeps asking, in a thread of its own; `reason` is None while the thing is reached."""

    def __init__(self, question: Question, ask_once: Callable[[Question], str | None]) -> None:
        self.question = question
        self._ask = ask_once
        self._known: str | None = "not asked yet"
        self._since: float | None = None

    def start(self) -> None:
        """Starts the thread, which ends with the process."""
        threading.Thread(target=self._forever, name=self.question.name, daemon=True).start()

    def once(self) -> None:
        self._since = time.monotonic()
        self._known = self._ask(self.question)
        self._since = None

    def reason(self) -> str | None:
        """Why the thing is not reached; None when it is."""
        since = self._since
        if since is not None and time.monotonic() - since > PATIENCE_S:
            return f"no answer for {PATIENCE_S:.0f} s"
        return self._known

    def _forever(self) -> None:
        while True:
            self.once()
            time.sleep(self.question.interval_s if self._known is None else RETRY_S)


class Ready:
    """A file that nginx answers /readyz from: it exists while everything is reached. Each change is said once."""

    def __init__(self, file: Path, watches: list[Watch]) -> None:
        self._file = file
        self._watches = watches
        self._said: dict[str, set[str | None]] = {watch.question.name: {"not asked yet"} for watch in watches}

    def update(self) -> None:
        """Writes or removes the file, and says what changed."""
        reasons = {watch.question.name: watch.reason() for watch in self._watches}
        for name, reason in reasons.items():
            if reason not in self._said[name]:
                say(f"{name} reachable") if reason is None else say(f"{name} not reachable", reason=reason)
                # reasons that take turns are not said again before the thing was reached
                self._said[name] = {reason} if reason is None else (self._said[name] - {None}) | {reason}
        if any(reason is not None for reason in reasons.values()):
            self._file.unlink(missing_ok=True)
        elif not self._file.exists():
            self._file.write_text("ready\n")
            say("ready")
