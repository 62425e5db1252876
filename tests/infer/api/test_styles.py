"""What infer says of the styles that it serves, and their previews."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import pytest
from atelier_contracts import names
from atelier_contracts.styles import Recommended, Style
from PIL import Image

from ..conftest import Service
from ..fake_store import FakeStore
from ..support import problem, wait_until_ready

OWN = Style(title="Ink", trigger_words=("sumi",), tags=("wash",), licence="MIT", recommended=Recommended(steps=3))


def webp(size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, "teal").save(stream, "webp", **options)
    return stream.getvalue()


@pytest.fixture
def publish_with_preview(store: FakeStore, publish: Callable[..., int]) -> Any:
    """A factory: a version with these bytes as its preview."""

    def make(content: bytes, sha256: str = "") -> int:
        number = publish(seed=1, style=OWN, preview_sha256=sha256 or hashlib.sha256(content).hexdigest())
        (store.folders[number] / names.PREVIEW_FILE).write_bytes(content)
        return number

    return make


def test_served_versions_are_described(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], publish_with_preview: Any
) -> None:
    store.set_alias("champion", publish_with_preview(webp()))
    publish(seed=5)
    store.edit_style(17, title="Brush")
    service = make_service()
    wait_until_ready(service)
    (loaded,) = service.client.get("/models").json()["adapters"]
    style = Style.model_validate(loaded["style"] | {"recommended": loaded["style"]["recommended"]})
    assert style == OWN.model_copy(update={"title": "Brush"})
    assert loaded["preview"] == "/versions/1/preview"
    second, first = service.client.get("/versions").json()["versions"]
    assert (first["style"], first["preview"]) == (loaded["style"], loaded["preview"])
    assert (second["style"], second["preview"]) == (None, None), "version 2 is not in memory"


def test_a_preview_is_served_from_the_files_on_disk(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], publish_with_preview: Any
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "<script>"
    content = webp(exif=exif)
    store.set_alias("champion", publish_with_preview(content))
    publish(seed=5)
    service = make_service()
    wait_until_ready(service)
    store.down = True
    response = service.client.get("/versions/1/preview")
    assert (response.status_code, response.headers["content-type"]) == (200, "image/webp")
    assert b"<script>" in content and b"<script>" not in response.content
    assert Image.open(io.BytesIO(response.content)).size == (40, 30)
    assert "is not in memory" in problem(service.client.get("/versions/2/preview"), 404)
    assert service.client.get("/versions/1/preview", headers={"Authorization": "Bearer no"}).status_code == 401
    assert store.fetched.count("preview 1") == 1


def test_a_version_without_a_preview(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int]
) -> None:
    store.set_alias("champion", publish(seed=1))
    service = make_service()
    wait_until_ready(service)
    assert "has no preview" in problem(service.client.get("/versions/1/preview"), 404)
    assert service.client.get("/models").json()["adapters"][0]["preview"] is None


def test_what_is_no_picture_is_not_served(
    make_service: Callable[..., Service], store: FakeStore, publish_with_preview: Any
) -> None:
    store.set_alias("champion", publish_with_preview(b"<html><script>alert(1)</script>"))
    service = make_service()
    wait_until_ready(service)
    assert "must be a WebP" in problem(service.client.get("/versions/1/preview"), 404)
    assert service.generate().status_code == 200


@pytest.mark.parametrize("content", [None, b"another picture"])
def test_a_version_whose_preview_is_not_the_promised_one_is_refused(
    make_service: Callable[..., Service], store: FakeStore, publish_with_preview: Any, content: bytes
) -> None:
    number = publish_with_preview(webp())
    store.set_alias("champion", number)
    file = store.folders[number] / names.PREVIEW_FILE
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    service = make_service()
    service.wait(lambda: (service.client.get("/models").json()["aliases"].get("champion") or {}).get("problem"))
    assert names.PREVIEW_FILE in service.client.get("/models").json()["aliases"]["champion"]["problem"]


def test_a_damaged_preview_on_disk_is_fetched_again(
    make_service: Callable[..., Service], store: FakeStore, publish_with_preview: Any
) -> None:
    store.set_alias("champion", publish_with_preview(webp()))
    first = make_service()
    wait_until_ready(first)
    (file,) = first.settings.cache_dir.glob(f"adapters/*/{names.PREVIEW_FILE}")
    file.write_bytes(b"damaged")
    second = make_service()
    wait_until_ready(second)
    assert second.client.get("/versions/1/preview").status_code == 200
    assert store.fetched.count("preview 1") == 2
