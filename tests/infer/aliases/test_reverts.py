"""Reverts: a version whose images are blank or not finite is replaced by the one before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from atelier_contracts.manifests import BundleManifest
from onnx import helper

from ..conftest import Service
from ..fake_store import FakeStore
from ..support import alias_state, make_all_images_blank, problem, readiness, version_of
from ..tiny_bundle import adapter_tensors, build_adapter, build_bundle, change_unet


def test_after_two_blank_images_in_a_row_the_previous_version_serves(
    service: Service,
    store: FakeStore,
    publish: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = service.generate().content
    number = publish(seed=5)
    store.set_alias("champion", number)
    service.wait(lambda: version_of(service.generate()) == str(number))
    with monkeypatch.context() as patch:
        make_all_images_blank(patch)
        assert 'blank"' in service.generate().headers["warning"]
        assert alias_state(service)["serving_version"] == number  # once may be chance
        service.generate()
    assert alias_state(service) | {"adapter_digest": "", "problem": ""} == {
        "target_version": number,
        "serving_version": 1,
        "adapter_digest": "",
        "reverted_version": number,
        "problem": "",
    }
    assert "2 blank or non-finite images in a row; version 1 serves as champion again" in alias_state(service)["problem"]
    assert readiness(service) == (200, "stale")
    assert service.generate().content == before
    assert version_of(service.generate(version=number)) == str(number)  # by its number it can be looked at
    store.set_alias("champion", publish(seed=6))  # the next one is served as ever
    service.wait(lambda: version_of(service.generate()) == "3")
    assert readiness(service) == (200, "ready")


@pytest.mark.parametrize(
    "fields",
    [
        {"guidance_scale": 29},
        {"scale": 3.9},
        {"base": True},
        {"width": 64, "height": 32},
        {"adapters": [{"alias": "champion", "weight": 1}] * 4},
        {"adapters": [{"alias": "champion", "weight": 1}, {"version": 1, "weight": 1}]},
    ],
)
def test_unusual_requests_do_not_count_against_a_version(
    service: Service, store: FakeStore, publish: Callable[..., int], monkeypatch: pytest.MonkeyPatch, fields: dict[str, float]
) -> None:
    number = publish(seed=5)
    store.set_alias("champion", number)
    service.wait(lambda: version_of(service.generate()) == str(number))
    make_all_images_blank(monkeypatch)
    for _ in range(3):
        service.generate(**fields)
    assert alias_state(service)["serving_version"] == number


def test_a_failing_graph_does_not_count_against_a_version(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], tmp_path: Path
) -> None:
    """The base's UNet looks up the last row in a list of one: every guided step fails, the others do not."""
    folder = tmp_path / "fragile"
    build_bundle(folder)
    constants = {"first": np.array([0]), "one": np.array([1]), "nothing": np.zeros(1, np.float32)}
    nodes = [
        helper.make_node("Gather", ["shape", "first"], ["b"]),
        helper.make_node("Sub", ["b", "one"], ["last row"]),
        helper.make_node("Gather", ["nothing", "last row"], ["zero"]),
        helper.make_node("Add", ["plain", "zero"], ["out_sample"]),
    ]
    manifest = change_unet(folder, constants, nodes)
    store.publish_bundle(folder, manifest.digest())
    store.set_alias("champion", publish(seed=1, bundle_digest=manifest.digest()))
    service = make_service()
    service.wait(lambda: readiness(service) == (200, "ready"))
    store.set_alias("champion", publish(seed=2, bundle_digest=manifest.digest()))
    service.wait(lambda: version_of(service.generate(guidance_scale=1)) == "2")
    for _ in range(3):
        assert "ONNX Runtime failed" in problem(service.generate(), 500)
    assert alias_state(service)["serving_version"] == 2
    assert service.count("images_total", version="2", alias="champion", outcome="failed") == 3
    assert version_of(service.generate(guidance_scale=1)) == "2"


def test_a_revert_is_logged_once_with_its_reason(
    service: Service,
    store: FakeStore,
    publish: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store.set_alias("champion", publish(seed=5))
    service.wait(lambda: version_of(service.generate()) == "2")
    make_all_images_blank(monkeypatch)
    for _ in range(4):
        service.generate()
    (record,) = [record for record in caplog.records if record.getMessage() == "alias reverted"]
    assert {name: vars(record)["fields"][name] for name in ("alias", "version", "serving")} == {
        "alias": "champion",
        "version": 2,
        "serving": 1,
    }
    assert "2 blank or non-finite images in a row" in vars(record)["fields"]["reason"]


def test_a_valid_image_resets_the_count(
    service: Service, store: FakeStore, publish: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    number = publish(seed=5)
    store.set_alias("champion", number)
    service.wait(lambda: version_of(service.generate()) == str(number))
    for _ in range(3):
        with monkeypatch.context() as patch:
            make_all_images_blank(patch)
            service.generate()
        service.generate()
    assert alias_state(service)["serving_version"] == number


def test_the_first_champion_keeps_serving(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    make_all_images_blank(monkeypatch)
    for _ in range(3):
        assert version_of(service.generate()) == "1"


def test_non_finite_images_of_a_version_count_as_well(
    service: Service, store: FakeStore, bundle: tuple[Path, BundleManifest], tmp_path: Path
) -> None:
    """The version passes the probe and overflows in a guided image; the one before it generates the same requests."""
    build_adapter(tmp_path / "overflow", bundle[1].digest(), adapter_tensors(seed=5, scale=1e37))
    number = store.publish_adapter(tmp_path / "overflow")
    store.set_alias("champion", number)
    service.wait(lambda: alias_state(service)["serving_version"] == number)
    for seed in (7, 8):
        assert alias_state(service)["serving_version"] == number
        assert "NaN or infinity" in problem(service.generate(seed=seed), 500)
    assert alias_state(service)["serving_version"] == 1
    assert alias_state(service)["reverted_version"] == number
    assert [version_of(service.generate(seed=seed)) for seed in (7, 8)] == ["1", "1"]


def test_registry_api_reads_what_was_reverted(service: Service, store: FakeStore, publish: Callable[..., int]) -> None:
    from atelier_registry.decisions.revert_monitor import HttpServedModelReader

    from ..conftest import SECRET

    reader = HttpServedModelReader(str(service.client.base_url).rstrip("/"), SECRET)
    found = reader.served_model()
    assert found.model == store.model
    assert (found.aliases["champion"].serving_version, found.aliases["champion"].reverted_version) == (1, None)
    assert found.aliases["champion"].adapter_digest == store.promoted[1]
    number = publish(seed=5)
    store.set_alias("champion", number)
    service.wait(lambda: alias_state(service)["serving_version"] == number)
    service.app.state.service._tracker.record_outcome([number, number], valid=False)
    assert reader.served_model().aliases["champion"].reverted_version == number
