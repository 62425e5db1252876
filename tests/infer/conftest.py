"""infer on a loopback port with a fake registry."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from atelier_contracts.tokens import TokenFile
from atelier_infer.app import create_app, make_engine
from atelier_infer.engine import denoising_state
from atelier_infer.engine.denoising_state import SamplingParams
from atelier_infer.engine.engine import Engine
from atelier_infer.generation import service as service_module
from atelier_infer.generation.job import GenerationJob
from atelier_infer.metrics import Metrics
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.bundle import Bundle, open_bundle
from atelier_infer.pipeline.memory_model import Cost, MemoryModel
from atelier_infer.settings import Settings
from fastapi import FastAPI
from numpy.typing import NDArray

from ..servers import app_running
from .fake_store import FakeStore
from .tiny_bundle import adapter_tensors, build_adapter, build_bundle

SECRET = "rita-s token"
TINY_MEMORY = MemoryModel(
    resident_bytes=2**20,
    step=Cost(fixed=0, per_px=64, per_px2=0, measured_px=1),
    decode=Cost(fixed=0, per_px=64, per_px2=0, measured_px=1),
)
"""Of tiny_bundle, about; measuring it at each start would take a second."""


@dataclass
class Service:
    """A running service and its parts."""

    client: httpx.Client
    store: FakeStore
    engine: Engine
    settings: Settings
    app: FastAPI

    def jobs(self) -> dict[str, GenerationJob]:
        """The jobs in its store."""
        return self.app.state.service.jobs._jobs

    def generate(self, **fields: Any) -> httpx.Response:
        return self.client.post("/generate", json={"prompt": "a cat", "steps": 2, "seed": 7} | fields)

    def count(self, name: str, **labels: str) -> float:
        """A value of `/metrics`; 0 where the series does not exist."""
        selector = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
        series = f"atelier_infer_{name}{{{selector}}}" if selector else f"atelier_infer_{name}"
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.client.get("/metrics").text, re.M)
        return float(found[1]) if found else 0.0

    def wait(self, condition: Callable[..., Any], patience_s: float = 20) -> None:
        wait(condition, patience_s)


def wait(condition: Callable[..., Any], patience_s: float = 20) -> None:
    """Until the condition holds; fails otherwise."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BundleManifest]:
    folder = tmp_path_factory.mktemp("bundle")
    return folder, build_bundle(folder)


@pytest.fixture(scope="session")
def opened(bundle: tuple[Path, BundleManifest]) -> Bundle:
    """The bundle in memory."""
    return open_bundle(bundle[0], runtime=Runtime(intra_op_threads=1))


@pytest.fixture
def params(opened: Bundle) -> SamplingParams:
    ids = opened.tokenizer.encode("a cat").ids
    return SamplingParams(ids, opened.tokenizer.encode("").ids, 4, 5.0, seed=3, width=48, height=32, scheduler="ddim")


@pytest.fixture
def adapter(tmp_path: Path, bundle: tuple[Path, BundleManifest]) -> tuple[Path, AdapterManifest]:
    folder = tmp_path / "adapter"
    return folder, build_adapter(folder, bundle[1].digest())


@pytest.fixture
def store(bundle: tuple[Path, BundleManifest]) -> FakeStore:
    """A registry with a bundle and no version."""
    folder, manifest = bundle
    made = FakeStore()
    made.publish_bundle(folder, manifest.digest())
    return made


@pytest.fixture
def publish(store: FakeStore, bundle: tuple[Path, BundleManifest], tmp_path: Path) -> Callable[..., int]:
    """Registers another version; its images differ by seed."""

    def publish(seed: int, bundle_digest: str | None = None, **changes: Any) -> int:
        folder = tmp_path / f"adapter {seed} {len(store.folders)}"
        build_adapter(folder, bundle_digest or bundle[1].digest(), adapter_tensors(seed=seed), **changes)
        return store.publish_adapter(folder)

    return publish


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"rita reader {hashlib.sha256(SECRET.encode()).hexdigest()}\n")
    return path


@pytest.fixture
def make_service(tmp_path: Path, store: FakeStore, token_file: Path) -> Iterator[Callable[..., Service]]:
    """A factory: settings by keyword, over the fixture's store."""
    with ExitStack() as stack:

        def make(**changes: Any) -> Service:
            values: dict[str, Any] = {
                "tracking_uri": "http://127.0.0.1:1",
                "model": store.model,
                "token_file": token_file,
                "cache_dir": tmp_path / "cache",
                "alias_poll_s": 0.02,
                "intra_op_threads": 1,
                "drain_timeout_s": 5,
            }
            extras = {name: changes.pop(name) for name in ("measure", "timings") if name in changes}
            settings = Settings(**(values | changes))
            metrics = Metrics()
            engine = make_engine(settings, metrics)
            app = create_app(
                engine=engine,
                metrics=metrics,
                store=store,
                tokens=TokenFile(settings.token_file),
                settings=settings,
                **{"measure": lambda folder, limit_bytes: TINY_MEMORY, **extras},
            )
            url = stack.enter_context(app_running(app))
            headers = {"Authorization": f"Bearer {SECRET}"}
            client = stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=30))
            return Service(client, store, engine, settings, app)

        yield make


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event, type[Any]]]:
    """Steps wait for `go`."""
    go, started = threading.Event(), threading.Event()

    class Slow(denoising_state.DenoisingState):
        pause_s = 0.0

        def step(self, model_output: NDArray[Any]) -> None:
            started.set()
            assert go.wait(20)
            time.sleep(self.pause_s)
            super().step(model_output)

    monkeypatch.setattr(service_module, "DenoisingState", Slow)
    yield go, started, Slow
    go.set()


@pytest.fixture
def service(make_service: Callable[..., Service], store: FakeStore, adapter: tuple[Path, AdapterManifest]) -> Service:
    """Ready, with version 1 as champion."""
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    made = make_service()
    made.wait(lambda: made.client.get("/readyz").status_code == 200)
    return made


@pytest.fixture
def canary(make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int]) -> Callable[..., Service]:
    """A factory: version 1 is the champion and version 2 the canary; both are loaded."""

    def make(percent: float = 100, **settings: Any) -> Service:
        store.set_alias("champion", publish(seed=1))
        store.set_alias("rival", publish(seed=5))
        service = make_service(canary_alias="rival", canary_percent=percent, **settings)
        service.wait(lambda: service.client.get("/models").json()["canary"]["serving_version"] == 2)
        return service

    return make
