"""Comparing, images, curves, drawing, retiring, and roll backs that prove their target: over HTTP."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import pytest
from atelier_contracts.stage import StageResponse
from PIL import Image

from ..adapter_files import ADAPTER, EVIDENCE, FILES
from ..conftest import Api, Response
from ..fake_infer_client import FakeInferClient, pixel_difference, png
from ..fake_registry import FakeRegistry
from ..real_registry import RealWorld

KIND = {"atelier.kind": "adapter"}


@pytest.fixture
def two(start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str) -> Api:
    """Two versions with runs, on both registries."""
    other = EVIDENCE.model_copy(update={"validation_loss": 0.12, "validation_digest": "f" * 64})
    world.add_model(name)
    world.add_version(name, tags=KIND, files=FILES, params={"rank": "8", "seed": "1"}, metrics={"loss": 0.5, "old": 1.0})
    world.add_version(
        name, tags=KIND, files=FILES | {"evidence.json": other.model_dump_json()}, params={"rank": "16", "seed": "1"},
        metrics={"loss": 0.25, "wild": float("nan")},
    )  # fmt: skip
    return start(world.registry).as_("rita")


def test_comparison_shows_differences(two: Api, name: str) -> None:
    found = two.get(f"/models/{name}/compare", left=1, right=2).json()
    assert (found["left"]["version"], found["right"]["version"]) == (1, 2)
    assert found["params"] == {"rank": {"left": "8", "right": "16", "difference": None}}
    assert found["metrics"]["loss"] == {"left": 0.5, "right": 0.25, "difference": -0.25}
    assert found["metrics"]["old"] == {"left": 1.0, "right": None, "difference": None}
    assert found["metrics"]["wild"] == {"left": None, "right": "NaN", "difference": None}
    assert found["losses_comparable"] is False
    assert two.get(f"/models/{name}/compare", left=1, right=1).json()["losses_comparable"] is True
    assert two.get(f"/models/{name}/compare", left=1, right=9).status_code == 404


def test_versions_can_be_listed_with_their_runs(two: Api, name: str) -> None:
    versions = two.get(f"/models/{name}/versions", runs="true").json()["versions"]
    assert [version["run"]["params"]["rank"] for version in versions] == ["16", "8"]
    assert versions[1]["run"]["metrics"] == {"loss": 0.5, "old": 1.0}
    assert [version["run"] for version in two.get(f"/models/{name}/versions").json()["versions"]] == [None, None]


def test_logged_images_and_curves_are_shown(two: Api, world: FakeRegistry | RealWorld, name: str) -> None:
    for step in (10, 20):
        world.add_image(name, 1, "validation", step, png(step))
        world.add_point(name, 1, "ema_loss", step, 1 / step)
    world.add_point(name, 1, "ema_loss", 30, float("nan"))
    images = two.get(f"/models/{name}/versions/1/images").json()["images"]
    assert [(image["key"], image["step"]) for image in images] == [("validation", 10), ("validation", 20)]
    shown = two.client.get(images[1]["path"], headers=two._headers)
    assert shown.headers["content-type"] == "image/png"
    assert pixel_difference(shown.content, png(20)) == 0
    curve = two.get(f"/models/{name}/versions/1/curves/ema_loss").json()
    assert curve["points"][:2] == [{"step": 10, "value": 0.1}, {"step": 20, "value": 0.05}]
    assert curve["points"][2]["value"] == "NaN"
    assert two.get(f"/models/{name}/versions/2/images").json() == {"images": []}
    for path in ("image?path=images/x.png", "image?path=../../secret", "curves/other"):
        assert two.get(f"/models/{name}/versions/1/{path}").status_code == 404


def test_several_versions_generate_the_same_images(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, infer_client: FakeInferClient
) -> None:
    api = start(fake).as_("rita")
    infer_client.levels, infer_client.broken = {1: 10, 2: 20}, {3}
    asked = {"prompt": "a cat", "seed": 7, "steps": 2, "size": 16}
    found = api.post(f"/models/{adapters}/generate", {"versions": [1, 2, 3], "images": [asked]}).json()["results"]
    assert [one["version"] for one in found] == [1, 2, 3]
    images = [StageResponse.model_validate(one["staged"]).images[0].png for one in found[:2]]
    assert pixel_difference(*images) == pytest.approx(10 / 255)
    assert "NaN" in found[2]["problem"]
    assert api.post(f"/models/{adapters}/generate", {"versions": [99], "images": [asked]}).status_code == 404
    assert api.post(f"/models/{adapters}/generate", {"versions": [1] * 5, "images": [asked]}).status_code == 422
    for number in (True, "1", 2**31, 2**63):
        assert api.post(f"/models/{adapters}/generate", {"versions": [number], "images": [asked]}).status_code == 422
    infer_client.down = True
    down = api.post(f"/models/{adapters}/generate", {"versions": [1], "images": [asked]}).json()["results"]
    assert "does not answer" in down[0]["problem"]


def webp(size: tuple[int, int] = (40, 30), **options: Any) -> Any:
    stream = io.BytesIO()
    Image.new("RGB", size, "teal").save(stream, "webp", **options)
    return stream.getvalue()


def with_preview(content: bytes) -> Any:
    manifest = ADAPTER.model_copy(update={"preview_sha256": hashlib.sha256(content).hexdigest()})
    return FILES | {"adapter.json": manifest.model_dump_json()}


def test_a_preview_is_served_as_a_picture_of_our_own(
    start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "<script>"
    content = webp(exif=exif)
    world.add_model(name)
    world.add_version(name, tags=KIND, files=with_preview(content), preview=content)
    world.add_version(name, tags=KIND, files=FILES)
    api = start(world.registry).as_("rita")
    path = api.get(f"/models/{name}/versions/1").json()["preview"]
    assert path == api.get(f"/models/{name}/style", version=1).json()["preview"] == f"/models/{name}/versions/1/preview"
    shown = api.get(path)
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/webp")
    assert b"<script>" in content and b"<script>" not in shown.content
    assert Image.open(io.BytesIO(shown.content)).size == (40, 30)
    again = api.get(path, headers={"If-None-Match": shown.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    missing = api.get(f"/models/{name}/versions/2/preview")
    assert (missing.status_code, missing.json()["type"]) == (404, "/problems/unknown-image")
    assert api.get(f"/models/{name}/versions/2").json()["preview"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html><script>alert(1)</script>", "it cannot be decoded"),
        (png(9), "it cannot be decoded"),
        (webp()[:60], "it cannot be decoded"),
        (webp((600, 8)), "at most 512 px; received 600 x 8"),
        (bytes(2**20 + 1), "at most 1048576 bytes"),
    ],
    ids=["markup", "another format", "cut short", "large", "long"],
)
def test_what_is_no_preview_is_not_served(
    start: Callable[..., Api], fake: FakeRegistry, name: str, content: bytes, message: str
) -> None:
    fake.add_model(name)
    fake.add_version(name, tags=KIND, files=with_preview(content), preview=content)
    response = start(fake).get(f"/models/{name}/versions/1/preview")
    assert response.status_code == 404
    assert message in response.json()["detail"]


def retire(api: Api, name: str, number: int, **more: Any) -> Response:
    return api.post(f"/models/{name}/versions/{number}/retire", {"reason": "hands"}, **more)


def test_a_retired_version_cannot_be_promoted(start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str) -> None:
    world.add_model(name)
    for _ in range(2):
        world.add_version(name, tags=KIND)
    api = start(world.registry)
    api.promote(name, 1)
    used = retire(api, name, 1)
    assert used.status_code == 409
    assert "version 1 of" in used.json()["detail"]
    assert "promote another version" in used.json()["detail"]
    done = retire(api, name, 2).json()
    assert (done["action"], done["alias"], done["to_version"], done["outcome"]) == ("retire", None, 2, "done")
    assert retire(api.as_("ada"), name, 2).json() == done  # already so
    assert world.registry.version(name, 2).tags["atelier.retired"] == str(done["id"])
    refused = api.promote(name, 2)
    assert f"was retired by decision {done['id']}" in refused.json()["detail"]
    assert api.as_("ada").promote(name, 2, force=True).status_code == 200
    assert retire(api.as_("rita"), name, 2).status_code == 403
    assert retire(api, name, 9).status_code == 404


def test_a_roll_back_proves_that_its_target_loads(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, infer_client: FakeInferClient
) -> None:
    api = start(fake)
    for number in (1, 2, 3):
        api.promote(adapters, number)
    infer_client.broken = {2}
    refused = api.roll_back(adapters)
    assert refused.status_code == 409
    assert "its weights hold NaN" in refused.json()["detail"]
    assert fake.model(adapters).aliases["champion"] == 3
    assert api.history(adapters)[0]["outcome"] == "refused"
    assert api.roll_back(adapters, version=1).json()["to_version"] == 1
    assert infer_client.calls == [2, 1]


def test_an_admin_may_force_a_roll_back_while_infer_is_down(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str, infer_client: FakeInferClient
) -> None:
    api = start(fake)
    for number in (1, 2):
        api.promote(adapters, number)
    infer_client.down = True
    assert "infer does not answer" in api.roll_back(adapters).json()["detail"]
    assert api.roll_back(adapters, force=True).status_code == 403
    forced = api.as_("ada").roll_back(adapters, force=True).json()
    assert (forced["to_version"], forced["forced"]) == (1, True)


def test_a_roll_back_to_a_retired_version_needs_force(start: Callable[..., Api], fake: FakeRegistry, adapters: str) -> None:
    api = start(fake)
    for number in (1, 2):
        api.promote(adapters, number)
    retire(api, adapters, 1)
    assert "was retired" in api.roll_back(adapters).json()["detail"]
    assert api.as_("ada").roll_back(adapters, force=True).json()["to_version"] == 1
