"""Aliases are followed while the service runs: they move, their targets fail, tracking goes down."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from atelier_contracts.manifests import AdapterManifest
from atelier_infer.app import Timings
from atelier_infer.engine.denoising_state import DenoisingState
from atelier_infer.generation import service as service_module
from numpy.typing import NDArray

from ..conftest import Service
from ..fake_store import FakeStore
from ..support import alias_state, problem, readiness, version_of, wait_until_ready
from ..tiny_bundle import build_bundle


@pytest.fixture
def timings() -> Timings:
    """A refused version may be tried again at once."""
    return Timings(refusal_ttl_s=0.0, alias_max_retry_s=0.1)


@pytest.fixture
def service(
    make_service: Callable[..., Service], store: FakeStore, adapter: tuple[Path, AdapterManifest], timings: Timings
) -> Service:
    """Ready, with version 1 as champion."""
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    service = make_service(timings=timings)
    wait_until_ready(service)
    return service


def test_a_new_champion_serves_without_a_restart(service: Service, store: FakeStore, publish: Callable[..., int]) -> None:
    before = service.generate()
    number = publish(seed=5)
    store.set_alias("champion", number)
    service.wait(lambda: version_of(service.generate()) == str(number))
    after = service.generate()
    assert after.content != before.content
    # the same seed with the old version, by its number, gives the old image
    assert service.generate(version=1).content == before.content


def test_a_request_waits_for_the_first_champion(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int]
) -> None:
    service = make_service(alias_poll_s=3600)  # only a request wakes the thread
    service.wait(lambda: readiness(service) == (200, "ready"))
    problem(service.generate(), 409)
    store.set_alias("champion", publish(seed=1))
    assert version_of(service.generate()) == "1"


def test_a_request_does_not_wait_long_for_a_champion(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    fetch = store.fetch_weights
    monkeypatch.setattr(store, "fetch_weights", lambda *args: go.wait(20) and fetch(*args))
    store.set_alias("champion", publish(seed=1))
    service = make_service(timings=Timings(alias_load_timeout_s=0.05))
    service.wait(lambda: alias_state(service) != {})
    answer = service.generate()
    assert "version 1, the champion, is being loaded" in problem(answer, 503)
    assert answer.headers["retry-after"] == "5"
    assert readiness(service) == (503, "starting")
    go.set()
    service.wait(lambda: readiness(service) == (200, "ready"))
    assert version_of(service.generate()) == "1"


def test_a_champion_that_fails_its_checks_leaves_the_old_one_serving(
    service: Service, store: FakeStore, publish: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    number = publish(seed=5, weights_sha256="0" * 64)
    store.set_alias("champion", number)
    service.wait(lambda: alias_state(service)["problem"])
    assert readiness(service) == (200, "stale")
    assert alias_state(service)["target_version"] == number
    assert alias_state(service)["serving_version"] == 1
    assert "0" * 64 in alias_state(service)["problem"]
    assert version_of(service.generate()) == "1"
    tries = len(store.fetched)
    service.wait(lambda: len(store.fetched) > tries + 2)  # it is tried again …
    refusals = [record for record in caplog.records if record.getMessage().startswith("version refused")]
    assert len(refusals) == 1  # … and logged once
    store.set_alias("champion", publish(seed=6))
    service.wait(lambda: readiness(service) == (200, "ready"))
    assert version_of(service.generate()) == "3"


def test_a_first_champion_that_fails_its_checks_is_reported(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int]
) -> None:
    store.set_alias("champion", publish(seed=5, bundle_digest="f" * 64))
    service = make_service()
    service.wait(lambda: readiness(service) == (200, "stale"))
    assert "f" * 64 in problem(service.generate(), 409)


def test_a_failure_that_is_repaired_is_forgotten(
    service: Service, store: FakeStore, publish: Callable[..., int], tmp_path: Path
) -> None:
    manifest = build_bundle(tmp_path / "late", seed=9)
    number = publish(seed=5, bundle_digest=manifest.digest())
    store.set_alias("champion", number)
    service.wait(lambda: readiness(service) == (200, "stale"))
    store.publish_bundle(tmp_path / "late", manifest.digest())
    service.wait(lambda: version_of(service.generate()) == str(number))
    assert readiness(service) == (200, "ready")


def test_any_alias_is_followed_after_the_first_request(service: Service, store: FakeStore, publish: Callable[..., int]) -> None:
    store.set_alias("rival", publish(seed=5))
    assert version_of(service.generate(alias="rival")) == "2"
    store.set_alias("rival", publish(seed=6))
    service.wait(lambda: version_of(service.generate(alias="rival")) == "3")
    assert version_of(service.generate()) == "1"
    store.delete_alias("rival")
    service.wait(lambda: service.generate(alias="rival").status_code == 404)


def test_a_deleted_champion_serves_no_longer(service: Service, store: FakeStore) -> None:
    store.delete_alias("champion")
    service.wait(lambda: service.generate().status_code == 409)
    assert version_of(service.generate(version=1)) == "1"


def test_loaded_versions_serve_while_tracking_is_down(service: Service, store: FakeStore, publish: Callable[..., int]) -> None:
    store.set_alias("rival", publish(seed=5))
    version_of(service.generate(alias="rival"))
    publish(seed=6)
    store.down = True
    service.wait(lambda: readiness(service) == (200, "stale"))
    assert version_of(service.generate()) == "1"
    assert version_of(service.generate(alias="rival")) == "2"
    assert version_of(service.generate(version=2)) == "2"
    assert version_of(service.generate(base=True)) == "base"
    assert "champion, rival" in problem(service.generate(alias="other"), 404)  # from what was known last
    answer = service.generate(version=3)
    assert "cannot be reached" in problem(answer, 503)
    assert answer.headers["retry-after"] == "5"
    store.down = False
    service.wait(lambda: readiness(service) == (200, "ready"))
    assert version_of(service.generate(version=3)) == "3"


def test_nothing_serves_before_tracking_has_answered(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int]
) -> None:
    store.down = True
    service = make_service()
    assert readiness(service) == (503, "starting")
    assert service.client.get("/healthz").status_code == 200
    problem(service.generate(), 503)
    problem(service.generate(version=1), 503)
    store.down = False
    service.wait(lambda: readiness(service) == (200, "ready"))
    problem(service.generate(), 409)


def test_a_model_that_was_created_again_starts_from_nothing(
    service: Service, store: FakeStore, publish: Callable[..., int]
) -> None:
    store.images[1] = b"\x89PNG of the old one"
    assert b"old" in service.client.get("/versions/1/image").content
    before = service.generate().content
    number = publish(seed=5)
    store.folders = {1: store.folders[number]}
    store.make_model_again()  # version 1 is another adapter now
    store.set_alias("champion", 1)
    store.images[1] = b"\x89PNG of the new one"
    service.wait(lambda: service.generate().content != before)
    assert version_of(service.generate()) == "1"
    assert b"new" in service.client.get("/versions/1/image").content


def test_a_champion_is_loaded_while_the_old_one_generates(
    service: Service, store: FakeStore, publish: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old version's drawing, begun before the swap, ends with the old version; the probe runs between its steps."""
    go, started = threading.Event(), threading.Event()

    class Slow(DenoisingState):
        def step(self, model_output: NDArray[Any]) -> None:
            started.set()
            go.wait(20)
            super().step(model_output)

    old = service.generate(steps=3)
    monkeypatch.setattr(service_module, "DenoisingState", Slow)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(service.generate(steps=3)))
    thread.start()
    assert started.wait(20)
    store.set_alias("champion", publish(seed=5))
    service.wait(lambda: alias_state(service)["target_version"] == 2)
    go.set()
    thread.join()
    assert answers[0].content == old.content
    service.wait(lambda: alias_state(service)["serving_version"] == 2)


def test_an_unexpected_error_does_not_end_the_polling_thread(
    service: Service,
    store: FakeStore,
    publish: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    registered_model = store.registered_model
    monkeypatch.setattr(store, "registered_model", lambda: 1 / 0)
    service.wait(lambda: any("failed" in record.getMessage() for record in caplog.records))
    monkeypatch.setattr(store, "registered_model", registered_model)
    store.set_alias("champion", publish(seed=5))
    service.wait(lambda: version_of(service.generate()) == "2")


def test_a_switch_under_load_fails_no_request_and_every_image_verifies(
    service: Service, store: FakeStore, publish: Callable[..., int]
) -> None:
    """Eight clients draw while the champion moves five times; each image is drawn again from its own text."""
    stop, answers = threading.Event(), []

    def client(seed: int) -> None:
        with httpx.Client(base_url=service.client.base_url, headers=service.client.headers, timeout=60) as line:
            while not stop.is_set():
                answers.append(line.post("/generate", json={"prompt": "a cat", "steps": 3, "seed": seed}))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    service.wait(lambda: len(answers) > 8)
    for seed in range(20, 25):
        number = publish(seed=seed)
        store.set_alias("champion", number)
        service.wait(lambda number=number: alias_state(service)["serving_version"] == number)
        results = len(answers)
        service.wait(lambda results=results: len(answers) > results + 8)
    stop.set()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert {version_of(answer) for answer in answers} == {"1", "2", "3", "4", "5", "6"}
    unlike = {(version_of(answer), answer.headers["x-atelier-seed"]): answer for answer in answers}
    for (number, _), answer in unlike.items():  # type: ignore[assignment]
        found = service.client.post("/verify", content=answer.content).json()
        assert found["matches"], number
        assert answer.headers["x-atelier-adapter-digest"] == found["metadata"]["adapter_digest"]
