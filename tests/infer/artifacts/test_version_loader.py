"""Versions and bundles in memory: limits, eviction, pinning, refusals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from atelier_infer.app import Timings
from atelier_infer.engine.denoising_state import DenoisingState
from atelier_infer.generation import service as service_module
from numpy.typing import NDArray

from ..conftest import Service
from ..fake_store import FakeStore
from ..support import (
    problem,
    readiness,
    version_of,
    wait_until_ready,
)
from ..tiny_bundle import adapter_tensors, build_adapter, build_bundle


def test_versions_by_number_are_cached_up_to_the_limit(
    make_service: Callable[..., Service],
    store: FakeStore,
    publish: Callable[..., int],
    tmp_path: Path,
    bundle: tuple[Path, BundleManifest],
) -> None:
    big = adapter_tensors(rank=9000)  # 0.69 MiB in memory
    for number in range(3):
        build_adapter(tmp_path / f"big {number}", bundle[1].digest(), big | {}, rank=9000, alpha=float(number + 1))
        store.publish_adapter(tmp_path / f"big {number}")
    store.set_alias("champion", publish(seed=5))
    service = make_service(adapter_cache_mib=2)
    service.wait(lambda: readiness(service)[0] == 200)
    for number in (1, 2, 1, 3):
        version_of(service.generate(version=number))
    loaded = [adapter["version"] for adapter in service.client.get("/models").json()["adapters"]]
    assert loaded == [4, 1, 3]  # 2 was used longest ago, and an alias draws with 4
    fetched = len(store.fetched)
    version_of(service.generate())  # the champion needs no room there
    version_of(service.generate(version=4))  # nor does it by its number
    version_of(service.generate(version=2))  # from the disk
    assert len(store.fetched) == fetched


def test_unused_bundles_are_closed(
    service: Service, store: FakeStore, publish: Callable[..., int], tmp_path: Path, bundle: tuple[Path, BundleManifest]
) -> None:
    other = build_bundle(tmp_path / "other", seed=9)
    store.publish_bundle(tmp_path / "other", other.digest())
    number = publish(seed=5, bundle_digest=other.digest())

    def open_now() -> set[str]:
        return {loaded["bundle_digest"] for loaded in service.client.get("/models").json()["bundles"]}

    assert service.generate(version=number).headers[names.HEADER_BUNDLE] == other.digest()
    assert open_now() == {bundle[1].digest(), other.digest()}
    store.set_alias("champion", number)
    service.wait(lambda: open_now() == {other.digest()})
    assert service.generate(base=True).headers[names.HEADER_BUNDLE] == other.digest()
    assert service.generate(version=1).headers[names.HEADER_BUNDLE] == bundle[1].digest()  # opened again


def test_a_refused_version_is_not_downloaded_at_every_request(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int]
) -> None:
    store.set_alias("champion", publish(seed=1))
    service = make_service(timings=Timings(refusal_ttl_s=60.0))
    wait_until_ready(service)
    number = publish(seed=5, weights_sha256="0" * 64)
    details = {problem(service.generate(version=number), 502) for _ in range(3)}
    assert len(details) == 1
    assert store.fetched.count(f"version {number}") == 1


def test_adapters_in_use_stay_in_memory_and_others_must_wait(
    make_service: Callable[..., Service],
    store: FakeStore,
    publish: Callable[..., int],
    tmp_path: Path,
    bundle: tuple[Path, BundleManifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go, started = threading.Event(), threading.Event()

    class Slow(DenoisingState):
        def step(self, model_output: NDArray[Any]) -> None:
            started.set()
            assert go.wait(20)
            super().step(model_output)

    big = adapter_tensors(rank=9000)  # 0.69 MiB in memory
    for number in range(3):
        build_adapter(tmp_path / f"big {number}", bundle[1].digest(), big, rank=9000, alpha=float(number + 1))
        store.publish_adapter(tmp_path / f"big {number}")
    store.set_alias("champion", publish(seed=5))
    service = make_service(adapter_cache_mib=1, batch_rank=20_000)
    service.wait(lambda: readiness(service)[0] == 200)
    monkeypatch.setattr(service_module, "DenoisingState", Slow)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(service.generate(version=1)))
    thread.start()
    assert started.wait(20)
    run_between_steps = service.engine.run_between_steps
    monkeypatch.setattr(
        service.engine, "run_between_steps", lambda call: call()
    )  # a probe would wait for the step that waits here
    refused = service.generate(version=2)
    assert "requests under way use 0.7 of the 1 MiB" in problem(refused, 503)
    assert refused.headers["retry-after"] == "5"
    assert 1 in [one["version"] for one in service.client.get("/models").json()["adapters"]]
    go.set()
    thread.join()
    monkeypatch.setattr(service.engine, "run_between_steps", run_between_steps)
    version_of(answers[0])
    assert version_of(service.generate(version=2)) == "2"


def test_adapter_json_is_downloaded_and_parsed_once_on_a_first_load(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, downloaded = [], []
    parse, download = AdapterManifest.model_validate_json, store.adapter_manifest
    number = publish(seed=1)
    monkeypatch.setattr(store, "adapter_manifest", lambda version: downloaded.append(version) or download(version))
    service = make_service()
    wait_until_ready(service)
    monkeypatch.setattr(AdapterManifest, "model_validate_json", lambda text: parsed.append(text) or parse(text))
    assert version_of(service.generate(version=number)) == str(number)
    assert (len(downloaded), len(parsed)) == (1, 1)
