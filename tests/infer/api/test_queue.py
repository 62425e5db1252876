"""A full queue, and clients that disconnect."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from atelier_contracts.manifests import AdapterManifest
from atelier_infer.engine import denoising_state
from atelier_infer.generation import service as service_module
from numpy.typing import NDArray

from ..conftest import SECRET, Service
from ..fake_store import FakeStore
from ..support import problem


@pytest.fixture
def stoppable(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event, type[Any]]]:
    """Drawings whose steps wait for `go`."""
    go, started = threading.Event(), threading.Event()

    class Slow(denoising_state.DenoisingState):
        steps_taken = 0

        def step(self, model_output: NDArray[Any]) -> None:
            started.set()
            assert go.wait(20)
            type(self).steps_taken += 1
            super().step(model_output)

    monkeypatch.setattr(service_module, "DenoisingState", Slow)
    yield go, started, Slow
    go.set()


def test_a_full_queue_sends_retry_after(
    make_service: Callable[..., Service],
    store: FakeStore,
    adapter: tuple[Path, AdapterManifest],
    stoppable: tuple[threading.Event, threading.Event, type[Any]],
) -> None:
    go, started, _ = stoppable
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    service = make_service(queue_limit=1)
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(service.generate())) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert started.wait(20)
    service.wait(lambda: service.engine.admission.admitted == 2)
    refused = service.generate()
    assert "at most 1 images may wait" in problem(refused, 429)
    assert int(refused.headers["retry-after"]) >= 1
    go.set()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200, 200]
    assert service.generate().status_code == 200


def test_a_disconnect_ends_the_job_at_its_next_step(
    service: Service, stoppable: tuple[threading.Event, threading.Event, type[Any]]
) -> None:
    go, started, slow = stoppable
    body = b'{"prompt": "a cat", "steps": 50}'
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((service.client.base_url.host, service.client.base_url.port)) as line:
        line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert started.wait(20)
    service.wait(lambda: all(task.cancelled.is_set() for task in service.engine._scheduler))
    go.set()
    service.wait(lambda: service.engine.admission.admitted == 0)
    assert service.generate(steps=1).status_code == 200  # the engine is free again
    assert slow.steps_taken == 2  # one of the fifty, and this one
