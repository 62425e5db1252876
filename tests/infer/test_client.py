"""The client in one file, against the real service."""

from __future__ import annotations

import ast
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from atelier_infer import client as module
from atelier_infer.client import Client, ClientError, Image, Preview, Progress
from atelier_infer.engine import denoising_state
from atelier_infer.generation import service as service_module
from numpy.typing import NDArray

from ..servers import free_port
from .conftest import SECRET, Service
from .fake_store import FakeStore
from .support import make_noise_non_finite

REQUEST = {"steps": 4, "seed": 7}


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(str(service.client.base_url), SECRET, timeout_s=60) as client:
        yield client


def test_it_needs_the_standard_library_alone() -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    found = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert found <= set(sys.stdlib_module_names)


def test_generate_and_verify(client: Client, service: Service, tmp_path: Path) -> None:
    images = client.generate("a cät", n=2, **REQUEST)  # type: ignore[arg-type]
    assert [(one.index, one.metadata["seed"], one.metadata["prompt"]) for one in images] == [(0, 7, "a cät"), (1, 8, "a cät")]
    images[0].save(tmp_path / "cat.png")
    for form in (tmp_path / "cat.png", str(tmp_path / "cat.png"), images[0].png, images[0]):
        assert client.verify(form).matches
    assert client.generate("a cät", key="k", **REQUEST)[0].png == client.generate("a cät", key="k", **REQUEST)[0].png
    assert [one["version"] for one in client.versions()] == [1]


def test_stream(client: Client, service: Service) -> None:
    found = list(client.stream("a cat", n=2, **REQUEST))  # type: ignore[arg-type]
    images = {one.index: one for one in found if isinstance(one, Image)}
    assert sorted(images) == [0, 1]
    assert images[0].png == service.client.get("/jobs/" + next(iter(service.jobs())) + "/images/0").content
    assert images[1].metadata["seed"] == 8
    assert all(isinstance(one, Progress | Preview | Image) for one in found)


def test_leaving_a_stream_cancels_it(client: Client, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(denoising_state.DenoisingState):
        def step(self, model_output: NDArray[Any]) -> None:
            time.sleep(0.1)
            super().step(model_output)

    monkeypatch.setattr(service_module, "DenoisingState", Slow)
    stream = client.stream("a cat", steps=100)
    first = next(one for one in stream if isinstance(one, Progress))
    assert first.steps == 100
    (order,) = service.jobs().values()
    stream.close()  # type: ignore[attr-defined]
    service.wait(lambda: service.engine.admission.admitted == 0)
    assert order.state == "cancelled"


def test_refusals_are_one_kind_of_error(client: Client, service: Service, store: FakeStore) -> None:
    with pytest.raises(ClientError, match="nearest valid") as caught:
        client.generate("a cat", width=33)
    assert (caught.value.status, caught.value.retry_after_s) == (422, None)
    with pytest.raises(ClientError, match="PNG or WebP"):
        client.verify(b"x")
    store.down = True
    with pytest.raises(ClientError) as caught:
        client.generate("a cat", version=9)
    assert (caught.value.status, caught.value.retry_after_s) == (503, 5.0)
    with Client(str(service.client.base_url), "wrong") as stranger, pytest.raises(ClientError, match="token"):
        stranger.generate("a cat")
    with Client(f"http://127.0.0.1:{free_port()}", SECRET) as nowhere, pytest.raises(ClientError, match="no response"):
        nowhere.generate("a cat")
    with pytest.raises(ValueError, match="ftp"):
        Client("ftp://x", SECRET)


def test_a_failed_stream_raises_the_problem(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:

    make_noise_non_finite(monkeypatch)
    with pytest.raises(ClientError, match="NaN or infinity"):
        list(client.stream("a cat", **REQUEST))  # type: ignore[arg-type]
