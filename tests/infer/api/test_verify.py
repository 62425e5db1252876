"""/verify: an image is what its text says, or it is not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atelier_contracts.generate import VerifyResponse
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from PIL import Image

from ..conftest import Service
from ..fake_store import FakeStore
from ..support import changed, problem, verify
from ..tiny_bundle import adapter_tensors, build_adapter


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"base": True},
        {"version": 1, "scale": 0.5, "negative_prompt": "a dög"},
        {"adapters": [{"version": 1, "weight": 4}, {"version": 1, "weight": 0.3}], "scale": 3.0},
        {"scheduler": "euler_ancestral", "guidance_until": 0.5, "width": 48},
    ],
)
def test_an_image_is_generated_again_from_its_metadata(service: Service, fields: dict[str, Any]) -> None:
    content = service.generate(**fields).content
    found = VerifyResponse.model_validate_json(verify(service, content).content)
    assert (found.matches, found.max_difference, found.differing_fraction) == (True, 0, 0.0)
    assert found.metadata.prompt == "a cat"


def test_a_webp_does_as_well(service: Service) -> None:
    webp = service.client.post("/generate", json={"prompt": "a cat", "steps": 2}, headers={"Accept": "image/webp"}).content
    assert verify(service, webp).json()["matches"] is True


def test_an_image_that_was_touched_is_not_the_same(service: Service) -> None:
    content = service.generate().content
    pixels = np.array(Image.open(io.BytesIO(content)))
    pixels[0, 0, 0] ^= 128
    found = verify(service, changed(content, pixels)).json()
    assert (found["matches"], found["max_difference"]) == (False, 128)
    assert 0 < found["differing_fraction"] < 0.01
    assert verify(service, changed(content, seed=8)).json()["matches"] is False


def test_an_image_from_before_blends(service: Service) -> None:
    content = service.generate().content
    assert verify(service, changed(content, adapters=[])).json()["matches"] is True


def test_a_version_that_is_something_else_now(
    service: Service, store: FakeStore, bundle: tuple[Path, BundleManifest], tmp_path: Path
) -> None:
    content = service.generate().content
    build_adapter(tmp_path / "anew", bundle[1].digest(), adapter_tensors(seed=9))
    store.folders[1] = tmp_path / "anew"
    store.make_model_again()
    store.set_alias("champion", 1)
    service.wait(lambda: service.generate().content != content)
    assert "as version 1" in problem(verify(service, content), 409)


def test_other_files_are_refused(service: Service) -> None:
    plain = io.BytesIO()
    Image.new("RGB", (32, 32)).save(plain, "png")
    good = service.generate().content
    for content in (b"", b"GIF89a", plain.getvalue(), good[:100], changed(good, steps="many"), changed(good, steps=100_000)):
        problem(verify(service, content), 422)
    for change in ({"steps": True}, {"seed": "7"}, {"width": "32", "height": "32"}):
        problem(verify(service, changed(good, **change)), 422)
    for side, words in ((2_000, "received 2000 x 2000"), (20_000, "much larger")):
        large = io.BytesIO()
        Image.new("1", (side, side)).save(large, "png")
        assert words in problem(verify(service, large.getvalue()), 422)
    assert "must be at most" in problem(verify(service, bytes(33 * 2**20)), 413)
    assert "'sketches'" in problem(verify(service, changed(good, model="photos")), 404)
    assert "0" * 64 in problem(verify(service, changed(good, bundle_digest="0" * 64, adapters=[], adapter_digest=None)), 409)


def test_a_full_queue_refuses_before_anything_is_loaded(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], adapter: tuple[Path, AdapterManifest]
) -> None:
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    number = publish(seed=5)
    state = make_service()
    state.wait(lambda: state.client.get("/readyz").status_code == 200)
    content = state.generate(version=number).content
    service = make_service(queue_limit=0)
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    with service.engine.admit(1):
        problem(verify(service, content), 429)
    loaded = {one["version"] for one in service.client.get("/models").json()["adapters"]}
    assert loaded == {1}
    assert verify(service, content).json()["matches"] is True
