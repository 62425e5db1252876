"""Requests and assertions that several tests share."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from atelier_contracts import names
from atelier_contracts.generate import JobStatus
from atelier_contracts.problem import Problem
from atelier_infer.engine.denoising_state import DenoisingState
from atelier_infer.engine.denoising_step import DenoisingStep
from atelier_infer.pipeline.bundle import Bundle
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    from .conftest import Service

REQUEST = {"prompt": "a cat", "steps": 4, "seed": 7}


def problem(response: httpx.Response, status: int) -> str:
    """Checks that a response is a problem document, and returns its detail."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    body = Problem.model_validate_json(response.content)
    assert (response.status_code, body.status) == (status, status), body
    return body.detail


def pixels_of(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(response.content)))


def version_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.headers[names.HEADER_VERSION]


def alias_of(response: httpx.Response) -> str | None:
    assert response.status_code == 200, response.text
    return response.headers.get(names.HEADER_ALIAS)


def alias_state(service: Service, name: str = "champion") -> dict[str, Any]:
    return service.client.get("/models").json()["aliases"].get(name, {})


def canary_state(service: Service) -> dict[str, Any]:
    return service.client.get("/models").json()["canary"]


def readiness(service: Service) -> tuple[int, str]:
    response = service.client.get("/readyz")
    return response.status_code, response.json()["status"]


def wait_until_ready(service: Service) -> None:
    service.wait(lambda: readiness(service) == (200, "ready"))


def make_all_images_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image has one colour from now on."""
    monkeypatch.setattr(DenoisingState, "finish", lambda self, keep_going: np.zeros((32, 32, 3), np.uint8))


def make_noise_non_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image fails with NaN from now on, whatever its version."""
    from atelier_infer.engine import denoising_state

    monkeypatch.setattr(denoising_state, "initial_noise", lambda *_: np.full((1, 4, 4, 4), np.nan, np.float32))


def ended(service: Service, job: str) -> JobStatus:
    """The status of a job once it has ended."""

    def status() -> JobStatus:
        return JobStatus.model_validate_json(service.client.get(f"/jobs/{job}").content)

    service.wait(lambda: status().state not in ("queued", "running"))
    return status()


def events(service: Service, job: str, **query: Any) -> list[tuple[str, dict[str, Any]]]:
    found = []
    with service.client.stream("GET", f"/jobs/{job}/events", params=query) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for block in "".join(stream.iter_text()).split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if lines:
                found.append((lines["event"], json.loads(lines["data"])))
    return found


def run_together(bundle: Bundle, requests: Any) -> list[DenoisingState]:
    """Denoises images, given as (adapters, params), in shared steps."""
    states, step = [DenoisingState(bundle, adapters, params) for adapters, params in requests], DenoisingStep()
    for state in states:
        state.prepare()
    unfinished = list(states)
    while unfinished:
        assert step.step(unfinished) == [None] * len(unfinished)
        unfinished = [state for state in unfinished if not state.done]
    return states


def verify(service: Service, content: bytes) -> httpx.Response:
    return service.client.post("/verify", content=content, headers={"Content-Type": "image/png"})


def changed(content: bytes, pixels: NDArray[Any] | None = None, **metadata: Any) -> bytes:
    """A PNG with other pixels or metadata."""
    image = Image.open(io.BytesIO(content))
    info = PngInfo()
    info.add_itxt(names.PNG_TEXT, json.dumps(json.loads(image.text[names.PNG_TEXT]) | metadata))  # type: ignore[attr-defined]
    stream = io.BytesIO()
    (image if pixels is None else Image.fromarray(pixels)).save(stream, "png", pnginfo=info)
    return stream.getvalue()
