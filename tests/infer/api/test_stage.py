"""POST /stage: a version checked and drawn with before it is promoted, and nothing served by it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from atelier_contracts.stage import StageResponse
from atelier_contracts.styles import Recommended, Style
from PIL import Image

from ..conftest import Service
from ..fake_store import FakeStore
from ..support import problem
from ..tiny_bundle import adapter_tensors, build_adapter

IMAGE = {"prompt": "a cat", "seed": 7, "steps": 2}


@pytest.fixture
def staged(
    make_service: Callable[..., Service],
    store: FakeStore,
    adapter: tuple[Path, AdapterManifest],
    bundle: tuple[Path, BundleManifest],
    tmp_path: Path,
    token_file: Path,
) -> Service:
    """A service whose champion is version 1, with a version 2 beside it; asked by a promoter."""
    with token_file.open("a") as lines:
        lines.write(f"pia promoter {hashlib.sha256(b'pia-s token').hexdigest()}\n")
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    build_adapter(tmp_path / "second", bundle[1].digest(), adapter_tensors(seed=5))
    store.publish_adapter(tmp_path / "second")
    service = make_service()
    service.wait(lambda: service.client.get("/readyz").status_code == 200)

    def stage(id: str = "pia", **body: Any) -> httpx.Response:
        return service.client.post("/stage", json=body, headers={"Authorization": f"Bearer {id}-s token"})

    service.stage = stage  # type: ignore[attr-defined]
    return service


def test_staged_images_equal_served_ones_and_nothing_is_served(staged: Service) -> None:
    before = staged.generate().content
    answer = staged.stage(version=2, images=[IMAGE, IMAGE | {"seed": 8, "size": 64}])  # type: ignore[attr-defined]
    assert answer.status_code == 200, answer.text
    found = StageResponse.model_validate_json(answer.content)
    assert (found.model, found.version) == ("sketches", 2)
    assert found.images[0].png == staged.generate(version=2, guidance_scale=5.0).content
    assert Image.open(io.BytesIO(found.images[1].png)).size == (64, 64)
    assert found.images[0].request.seed == 7
    assert found.load_seconds > 0
    assert found.step_seconds > 0
    assert staged.client.get("/models").json()["aliases"]["champion"]["serving_version"] == 1
    assert staged.generate().content == before


def test_staged_images_take_no_recommended_values(staged: Service, store: FakeStore, publish: Callable[..., int]) -> None:
    """They compare versions, whose own values differ."""
    style = Style(recommended=Recommended(scale=0.25, scheduler="ddim"))
    number = publish(seed=6, style=style)
    store.edit_style(17, recommended={"scale": 0.5})
    found = StageResponse.model_validate_json(staged.stage(version=number, images=[IMAGE]).content)  # type: ignore[attr-defined]
    named = staged.generate(version=number, guidance_scale=5.0, scale=1.0, scheduler=staged.settings.scheduler)
    assert found.images[0].png == named.content
    assert found.images[0].png != staged.generate(version=number, guidance_scale=5.0).content


def test_without_images_it_proves_that_the_version_loads(
    staged: Service, adapter: tuple[Path, AdapterManifest], bundle: tuple[Path, BundleManifest]
) -> None:
    found = StageResponse.model_validate_json(staged.stage(version=1, model="sketches").content)  # type: ignore[attr-defined]
    assert found.images == []
    assert (found.adapter_digest, found.bundle_digest) == (adapter[1].digest(), bundle[1].digest())


def test_a_version_that_cannot_serve_is_refused_with_the_reason(
    staged: Service, store: FakeStore, bundle: tuple[Path, BundleManifest], tmp_path: Path
) -> None:
    build_adapter(tmp_path / "bad", bundle[1].digest(), adapter_tensors(seed=6), weights_sha256="0" * 64)
    number = store.publish_adapter(tmp_path / "bad")
    assert "0" * 64 in problem(staged.stage(version=number), 502)  # type: ignore[attr-defined]
    assert "no version 99" in problem(staged.stage(version=99), 404)  # type: ignore[attr-defined]
    assert staged.client.get("/readyz").json() == {"status": "ready"}


def test_it_needs_a_promoter(staged: Service) -> None:
    assert "promoter" in problem(staged.stage(id="rita", version=1), 403)  # type: ignore[attr-defined]
    assert staged.client.post("/stage", json={"version": 1}, headers={"Authorization": "Bearer no"}).status_code == 401


def test_another_model_is_not_served_here(staged: Service) -> None:
    assert "'sketches'" in problem(staged.stage(version=1, model="photos"), 404)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"version": 0},
        {"version": 1, "alias": "champion"},
        {"version": 1, "images": [IMAGE] * 9},
        {"version": 1, "images": [IMAGE | {"size": 33}]},
        {"version": 1, "images": [IMAGE | {"width": 32}]},
    ],
)
def test_what_breaks_a_rule_is_refused(staged: Service, body: dict[str, Any]) -> None:
    problem(staged.stage(**body), 422)  # type: ignore[attr-defined]
