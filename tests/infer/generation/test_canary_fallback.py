"""A canary that cannot draw: the champion does, and no request fails."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atelier_contracts import names
from atelier_contracts.generate import GenerationMetadata
from atelier_infer.app import Timings
from atelier_infer.engine.denoising_state import DenoisingState
from atelier_infer.generation import service as service_module
from numpy.typing import NDArray
from PIL import Image

from ..conftest import Service
from ..fake_store import FakeStore
from ..support import alias_of, alias_state, canary_state, ended, make_all_images_blank, problem, readiness, version_of
from ..tiny_bundle import build_bundle


def test_without_a_canary_nothing_is_said_of_one(service: Service) -> None:
    assert canary_state(service) is None
    assert alias_of(service.generate()) == "champion"
    assert "canary_active" not in service.client.get("/metrics").text


def test_an_alias_that_does_not_exist_leaves_everything_to_the_champion(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int]
) -> None:
    store.set_alias("champion", publish(seed=1))
    service = make_service(canary_alias="rival", canary_percent=100)
    service.wait(lambda: readiness(service) == (200, "ready"))
    assert alias_of(service.generate()) == "champion"
    assert canary_state(service) == {
        "alias": "rival",
        "percent": 100.0,
        "serving_version": None,
        "active": False,
        "inactive_reason": "the registry has no alias 'rival'; promote a version as rival",
    }
    assert readiness(service) == (200, "ready")
    assert service.count("canary_assignments_total", assignment="canary_unavailable") == 1
    assert service.count("canary_active") == 0
    # nobody has to ask for it: it is loaded once it is there
    store.set_alias("rival", publish(seed=5))
    service.wait(lambda: canary_state(service)["active"])
    assert (canary_state(service)["serving_version"], canary_state(service)["inactive_reason"]) == (2, None)
    assert (alias_of(service.generate()), service.count("canary_active")) == ("rival", 1)
    store.delete_alias("rival")
    service.wait(lambda: not canary_state(service)["active"])
    assert alias_of(service.generate()) == "champion"


def test_the_champion_serves_while_the_canary_loads(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_alias("champion", publish(seed=1))
    store.set_alias("a-rival", publish(seed=5))  # before the champion in the alphabet
    go, fetch = threading.Event(), store.fetch_weights
    monkeypatch.setattr(store, "fetch_weights", lambda number, into: (number == 1 or go.wait(20)) and fetch(number, into))
    service = make_service(canary_alias="a-rival", canary_percent=100)
    service.wait(lambda: readiness(service) == (200, "ready"))
    assert canary_state(service)["inactive_reason"] == "version 2 is being loaded"
    assert alias_of(service.generate()) == "champion"
    go.set()
    service.wait(lambda: alias_of(service.generate()) == "a-rival")


def test_a_refused_version_serves_no_request(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_alias("champion", publish(seed=1))
    store.set_alias("rival", publish(seed=5, weights_sha256="0" * 64))
    timings = Timings(refusal_ttl_s=0.0, alias_max_retry_s=0.1)
    service = make_service(canary_alias="rival", canary_percent=100, timings=timings)
    service.wait(lambda: "was refused" in (canary_state(service)["inactive_reason"] or ""))
    assert "0" * 64 in canary_state(service)["inactive_reason"]
    assert alias_of(service.generate()) == "champion"
    store.set_alias("rival", publish(seed=6))
    service.wait(lambda: alias_of(service.generate()) == "rival")
    # one that is refused later leaves the one before it, as with any alias
    store.set_alias("rival", publish(seed=7, weights_sha256="0" * 64))
    service.wait(lambda: alias_state(service, "rival")["problem"])
    assert version_of(service.generate()) == "3"


def test_without_a_champion_nothing_is_served(canary: Callable[..., Service], store: FakeStore) -> None:
    service = canary(percent=50)
    store.delete_alias("champion")
    service.wait(lambda: "no champion" in (canary_state(service)["inactive_reason"] or ""))
    for seed in range(8):
        problem(service.generate(seed=seed), 409)
    assert version_of(service.generate(alias="rival")) == "2"


def test_a_share_of_nothing(canary: Callable[..., Service]) -> None:
    service = canary(percent=0)
    assert canary_state(service)["inactive_reason"] == "its share is 0 percent"
    assert {alias_of(service.generate(seed=seed)) for seed in range(8)} == {"champion"}


@pytest.mark.parametrize("earlier", [False, True])
def test_blank_images_end_it_until_the_alias_serves_another(
    canary: Callable[..., Service],
    store: FakeStore,
    publish: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    earlier: bool,
) -> None:
    """With and without a version that the alias can step back to: the champion draws either way."""
    service = canary()
    if earlier:
        store.set_alias("rival", publish(seed=6))
        service.wait(lambda: alias_state(service, "rival")["serving_version"] == 3)
    struck = alias_state(service, "rival")["serving_version"]
    with monkeypatch.context() as patch:
        make_all_images_blank(patch)
        for _ in range(2):
            answer = service.generate()
            assert (alias_of(answer), version_of(answer)) == ("rival", str(struck))
            assert 'blank"' in answer.headers["warning"]
    assert alias_of(service.generate()) == "champion"
    assert canary_state(service)["serving_version"] == (2 if earlier else struck)
    assert f"version {struck} generated blank or non-finite images" in canary_state(service)["inactive_reason"]
    # a sound image of it that somebody asks for by name does not bring it back, nor does a target that is refused
    assert version_of(service.generate(version=struck)) == str(struck)
    store.set_alias("rival", publish(seed=8, weights_sha256="0" * 64))
    service.wait(lambda: "0" * 64 in (alias_state(service, "rival")["problem"] or ""))
    assert alias_of(service.generate()) == "champion"
    store.set_alias("rival", publish(seed=7))
    service.wait(lambda: alias_of(service.generate()) == "rival")
    assert service.count("images_total", version=str(struck), alias="rival", outcome="invalid") == 2


class Wild(DenoisingState):
    """Every step of the canary's version gives infinity; the champion's are as ever."""

    seeds: tuple[int, ...] = ()

    def step(self, model_output: NDArray[Any]) -> None:
        rival = any(adapter.digest in RIVALS for adapter, _ in self.adapters)
        super().step(model_output * np.inf if rival and self.params.seed in self.seeds else model_output)  # type: ignore[arg-type]


RIVALS: set[str] = set()


@pytest.fixture
def wild(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A factory: from now on version 2 fails for these seeds."""

    def make(service: Service, *seeds: int) -> None:
        adapters = service.client.get("/models").json()["adapters"]
        RIVALS.update(one["adapter_digest"] for one in adapters if one["version"] == 2)
        monkeypatch.setattr(service_module, "DenoisingState", type("Wild", (Wild,), {"seeds": seeds}))

    yield make
    RIVALS.clear()


def test_the_champion_generates_what_the_canary_failed(canary: Callable[..., Service], wild: Callable[..., None]) -> None:
    service = canary()
    champions = service.generate(alias="champion")
    wild(service, 7)
    answer = service.generate()
    assert (alias_of(answer), version_of(answer), answer.content) == ("champion", "1", champions.content)
    assert service.count("images_total", version="2", alias="rival", outcome="invalid") == 1
    assert service.count("canary_fallbacks_total") == 1
    problem(service.generate(alias="rival"), 500)  # who asks for it by name is told
    assert alias_of(service.generate(seed=8)) == "champion"  # that was the second in a row
    assert service.count("canary_fallbacks_total") == 1


def test_all_images_of_a_job_have_one_version(canary: Callable[..., Service], wild: Callable[..., None]) -> None:
    service = canary()
    wild(service, 8)  # the second of them
    job = service.client.post("/jobs", json={"prompt": "a cat", "steps": 2, "seed": 7, "n": 3}).json()["id"]
    status = ended(service, job)
    assert (status.state, status.alias, status.problem) == ("succeeded", "champion", None)
    for index, path in enumerate(status.images):
        answer = service.client.get(path)
        text = GenerationMetadata.model_validate_json(Image.open(io.BytesIO(answer.content)).text[names.PNG_TEXT])  # type: ignore[attr-defined]
        assert (alias_of(answer), text.version, text.seed) == ("champion", "1", 7 + index)
        assert service.client.post("/verify", content=answer.content).json()["matches"]
    assert service.engine.admission.admitted == 0


def test_the_champion_serves_sizes_that_the_canary_cannot(
    canary: Callable[..., Service], store: FakeStore, publish: Callable[..., int], tmp_path: Path
) -> None:
    service = canary()
    other = build_bundle(tmp_path / "other", seed=9, manifest_changes={"native_size_px": 64, "size_multiple_px": 32})
    store.publish_bundle(tmp_path / "other", other.digest())
    store.set_alias("rival", publish(seed=6, bundle_digest=other.digest()))
    service.wait(lambda: canary_state(service)["serving_version"] == 3)
    assert version_of(service.generate(width=64, height=64)) == "3"
    answer = service.generate(width=48)
    assert (alias_of(answer), version_of(answer)) == ("champion", "1")
    assert service.count("canary_assignments_total", assignment="canary_incompatible") == 1
    assert "nearest valid" in problem(service.generate(width=33), 422)  # what the champion refuses is refused


def test_a_canary_under_load_fails_no_request_while_its_alias_moves(
    canary: Callable[..., Service], store: FakeStore, publish: Callable[..., int], wild: Callable[..., None]
) -> None:
    service = canary(percent=50)
    wild(service, *range(0, 40, 3))
    stop, answers = threading.Event(), []

    def draw(first: int) -> None:
        for seed in range(first, 10_000, 4):
            if stop.is_set():
                return
            answers.append(service.generate(seed=seed % 40))

    threads = [threading.Thread(target=draw, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for change in (lambda: store.delete_alias("rival"), lambda: store.set_alias("rival", publish(seed=6))):
        results = len(answers)
        service.wait(lambda results=results: len(answers) > results + 12)
        change()
    service.wait(lambda: canary_state(service)["active"])
    results = len(answers)
    service.wait(lambda: len(answers) > results + 12)
    stop.set()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert {(alias_of(answer), version_of(answer)) for answer in answers} >= {("champion", "1"), ("rival", "3")}
