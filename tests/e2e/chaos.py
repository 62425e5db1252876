"""Work that goes on while containers are restarted and killed: each worker remembers what was acknowledged."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from abc import ABC, abstractmethod
from typing import Any

import httpx

PAUSE_S = 0.2


class Worker(threading.Thread, ABC):
    """Does the same thing over and over; an answer below 400 acknowledges it, anything else is tried again."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.acknowledged: list[Any] = []
        self.failures: list[str] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        """Until told to stop."""
        for number in itertools.count():
            while not self.stopping.is_set():
                try:
                    answer = self.send(number)
                except httpx.TransportError as error:
                    self.failures.append(repr(error))
                else:
                    if answer.is_success:
                        self.acknowledged.append(self.keep(number, answer))
                        break
                    self.failures.append(f"{answer.status_code} {answer.text[:300]}")
                time.sleep(PAUSE_S)
            if self.stopping.wait(PAUSE_S):
                return

    @abstractmethod
    def send(self, number: int) -> httpx.Response:
        """One request."""

    @abstractmethod
    def keep(self, number: int, answer: httpx.Response) -> Any:
        """What was acknowledged."""


class Metrics(Worker):
    """Logs one metric after the other to a run."""

    def __init__(self, client: httpx.Client, run_id: str) -> None:
        super().__init__(client)
        self.run_id = run_id

    def send(self, number: int) -> httpx.Response:
        """The value says the step."""
        row = {"run_id": self.run_id, "key": "loss", "value": number / 8, "step": number, "timestamp": 1_000_000 + number}
        return self.client.post("/api/2.0/mlflow/runs/log-metric", json=row)

    def keep(self, number: int, answer: httpx.Response) -> int:
        """The step."""
        return number


def content(number: int) -> bytes:
    """Up to some hundred KB that follow from the number."""
    return hashlib.sha256(str(number).encode()).digest() * (1 + number * 997 % 20_000)


class Artifacts(Worker):
    """Uploads one file after the other to a run."""

    def __init__(self, client: httpx.Client, folder: str) -> None:
        super().__init__(client)
        self.folder = folder

    def address(self, number: int) -> str:
        """Where a file is, for PUT and GET."""
        return f"/api/2.0/mlflow-artifacts/artifacts/{self.folder}/file-{number}.bin"

    def send(self, number: int) -> httpx.Response:
        """One file."""
        return self.client.put(self.address(number), content=content(number))

    def keep(self, number: int, answer: httpx.Response) -> int:
        """Its number."""
        return number


class Promotions(Worker):
    """Moves the champion to and fro between two versions."""

    def __init__(self, client: httpx.Client, model: str, versions: tuple[int, int]) -> None:
        super().__init__(client)
        self.model, self.versions = model, versions

    def send(self, number: int) -> httpx.Response:
        """A reason of its own each time."""
        body = {"reason": f"move {number}"}
        return self.client.post(f"/models/{self.model}/versions/{self.versions[number % 2]}/promote", json=body)

    def keep(self, number: int, answer: httpx.Response) -> int:
        """The decision's id."""
        return int(answer.json()["id"])


class Images(Worker):
    """Draws."""

    def send(self, number: int) -> httpx.Response:
        """A quick one."""
        return self.client.post("/generate", json={"prompt": "a cat", "seed": number % 1000, "steps": 2})

    def keep(self, number: int, answer: httpx.Response) -> str:
        """The version that drew it."""
        assert answer.content.startswith(b"\x89PNG")
        return answer.headers["X-Atelier-Version"]
