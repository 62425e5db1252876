"""Workers that send requests while containers are restarted and killed, and record what was acknowledged."""

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
    """Sends numbered requests; repeats each one until a response below 400 acknowledges it."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.acknowledged: list[Any] = []
        self.failures: list[str] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        for number in itertools.count():
            while not self.stopping.is_set():
                try:
                    response = self.send(number)
                except httpx.TransportError as error:
                    self.failures.append(repr(error))
                else:
                    if response.is_success:
                        self.acknowledged.append(self.result(number, response))
                        break
                    self.failures.append(f"{response.status_code} {response.text[:300]}")
                time.sleep(PAUSE_S)
            if self.stopping.wait(PAUSE_S):
                return

    @abstractmethod
    def send(self, number: int) -> httpx.Response:
        """Sends request number `number`."""

    @abstractmethod
    def result(self, number: int, response: httpx.Response) -> Any:
        """The value to record for an acknowledged request."""


class MetricLogger(Worker):
    """Logs metrics to a run; the value follows from the step."""

    def __init__(self, client: httpx.Client, run_id: str) -> None:
        super().__init__(client)
        self.run_id = run_id

    def send(self, number: int) -> httpx.Response:
        row = {"run_id": self.run_id, "key": "loss", "value": number / 8, "step": number, "timestamp": 1_000_000 + number}
        return self.client.post("/api/2.0/mlflow/runs/log-metric", json=row)

    def result(self, number: int, response: httpx.Response) -> int:
        return number


def content(number: int) -> bytes:
    """Deterministic content of a file, up to 640 kB."""
    return hashlib.sha256(str(number).encode()).digest() * (1 + number * 997 % 20_000)


class ArtifactUploader(Worker):
    """Uploads files to a run."""

    def __init__(self, client: httpx.Client, folder: str) -> None:
        super().__init__(client)
        self.folder = folder

    def path(self, number: int) -> str:
        """Path of a file for PUT and GET."""
        return f"/api/2.0/mlflow-artifacts/artifacts/{self.folder}/file-{number}.bin"

    def send(self, number: int) -> httpx.Response:
        return self.client.put(self.path(number), content=content(number))

    def result(self, number: int, response: httpx.Response) -> int:
        return number


class Promoter(Worker):
    """Promotes two versions alternately; records the ids of the decisions."""

    def __init__(self, client: httpx.Client, model: str, versions: tuple[int, int]) -> None:
        super().__init__(client)
        self.model, self.versions = model, versions

    def send(self, number: int) -> httpx.Response:
        body = {"reason": f"promotion {number}"}
        return self.client.post(f"/models/{self.model}/versions/{self.versions[number % 2]}/promote", json=body)

    def result(self, number: int, response: httpx.Response) -> int:
        return int(response.json()["id"])


class ImageGenerator(Worker):
    """Generates images; records the versions."""

    def send(self, number: int) -> httpx.Response:
        return self.client.post("/generate", json={"prompt": "a cat", "seed": number % 1000, "steps": 2})

    def result(self, number: int, response: httpx.Response) -> str:
        assert response.content.startswith(b"\x89PNG")
        return response.headers["X-Atelier-Version"]
