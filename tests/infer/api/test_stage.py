"""POST /stage: a version checked and drawn with before it is promoted, and nothing served by it."""

import hashlib
import io

import pytest
from atelier_contracts.stage import StageResponse
from atelier_contracts.styles import Recommended, Style
from PIL import Image

from ..support import problem
from ..tiny_bundle import adapter_tensors, build_adapter

IMAGE = {"prompt": "a cat", "seed": 7, "steps": 2}


@pytest.fixture
def staged(make_service, store, adapter, bundle, tmp_path, token_file):
    """A service whose champion is version 1, with a version 2 beside it; asked by a promoter."""
    with token_file.open("a") as lines:
        lines.write(f"pia promoter {hashlib.sha256(b'pia-s token').hexdigest()}\n")
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    build_adapter(tmp_path / "second", bundle[1].digest(), adapter_tensors(seed=5))
    store.publish_adapter(tmp_path / "second")
    service = make_service()
    service.wait(lambda: service.client.get("/readyz").status_code == 200)

    def stage(id="pia", **body):
        return service.client.post("/stage", json=body, headers={"Authorization": f"Bearer {id}-s token"})

    service.stage = stage
    return service


def test_staged_images_equal_served_ones_and_nothing_is_served(staged):
    before = staged.generate().content
    answer = staged.stage(version=2, images=[IMAGE, IMAGE | {"seed": 8, "size": 64}])
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


def test_staged_images_take_no_recommended_values(staged, store, publish):
    """They compare versions, whose own values differ."""
    style = Style(recommended=Recommended(scale=0.25, scheduler="ddim"))
    number = publish(seed=6, style=style)
    store.edit_style(17, recommended={"scale": 0.5})
    found = StageResponse.model_validate_json(staged.stage(version=number, images=[IMAGE]).content)
    named = staged.generate(version=number, guidance_scale=5.0, scale=1.0, scheduler=staged.settings.scheduler)
    assert found.images[0].png == named.content
    assert found.images[0].png != staged.generate(version=number, guidance_scale=5.0).content


def test_without_images_it_proves_that_the_version_loads(staged, adapter, bundle):
    found = StageResponse.model_validate_json(staged.stage(version=1, model="sketches").content)
    assert found.images == []
    assert (found.adapter_digest, found.bundle_digest) == (adapter[1].digest(), bundle[1].digest())


def test_a_version_that_cannot_serve_is_refused_with_the_reason(staged, store, bundle, tmp_path):
    build_adapter(tmp_path / "bad", bundle[1].digest(), adapter_tensors(seed=6), weights_sha256="0" * 64)
    number = store.publish_adapter(tmp_path / "bad")
    assert "0" * 64 in problem(staged.stage(version=number), 502)
    assert "no version 99" in problem(staged.stage(version=99), 404)
    assert staged.client.get("/readyz").json() == {"status": "ready"}


def test_it_needs_a_promoter(staged):
    assert "promoter" in problem(staged.stage(id="rita", version=1), 403)
    assert staged.client.post("/stage", json={"version": 1}, headers={"Authorization": "Bearer no"}).status_code == 401


def test_another_model_is_not_served_here(staged):
    assert "'sketches'" in problem(staged.stage(version=1, model="photos"), 404)


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
def test_what_breaks_a_rule_is_refused(staged, body):
    problem(staged.stage(**body), 422)
