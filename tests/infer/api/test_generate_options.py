"""POST /generate: several images, forms, blends, keys; /metrics, /versions."""

from __future__ import annotations

import base64
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atelier_contracts import names
from atelier_contracts.generate import GenerateResponse, GenerationMetadata
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from atelier_infer.api.content_negotiation import negotiate
from atelier_infer.errors import NotAcceptableError
from PIL import Image

from ..conftest import Service
from ..fake_store import FakeStore
from ..support import pixels_of, problem
from ..tiny_bundle import adapter_tensors, build_adapter, build_bundle


@pytest.fixture
def styles(service: Service, store: FakeStore, bundle: tuple[Path, BundleManifest], tmp_path: Path) -> Service:
    """Version 1 is the champion; 2 and 3 have other ranks."""
    for seed, rank in ((5, 4), (6, 8)):
        folder = tmp_path / f"style {seed}"
        build_adapter(folder, bundle[1].digest(), adapter_tensors(seed=seed, rank=rank), rank=rank)
        store.publish_adapter(folder)
    return service


def test_several_images_have_ascending_seeds_and_are_json(service: Service) -> None:
    answer = service.generate(n=3, seed=2**32 - 2)
    assert answer.headers["content-type"] == "application/json"
    found = GenerateResponse.model_validate_json(answer.content)
    assert [one.metadata.seed for one in found.images] == [2**32 - 2, 2**32 - 1, 0]
    for one in found.images:
        alone = service.generate(seed=one.metadata.seed)
        apart = np.abs(pixels_of(alone).astype(int) - np.asarray(Image.open(io.BytesIO(base64.b64decode(one.png)))))
        assert apart.max() <= 1


def test_several_images_do_not_fit_into_one_png(service: Service) -> None:
    answer = service.client.post("/generate", json={"prompt": "a cat", "n": 2}, headers={"Accept": "image/png"})
    assert "application/json" in problem(answer, 406)
    assert "1 to 8" in problem(service.generate(n=9), 422) or "less than or equal to 8" in problem(service.generate(n=9), 422)


def test_webp_has_the_same_pixels_and_the_same_text(service: Service) -> None:
    png = service.generate(prompt="a cät 😀")
    webp = service.client.post(
        "/generate", json={"prompt": "a cät 😀", "steps": 2, "seed": 7}, headers={"Accept": "image/webp"}
    )
    assert webp.headers["content-type"] == "image/webp"
    assert webp.headers["vary"] == "Accept"
    image = Image.open(io.BytesIO(webp.content))
    assert image.format == "WEBP"
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), pixels_of(png))
    results = GenerationMetadata.model_validate_json(image.getexif()[0x010E])
    assert results == GenerationMetadata.model_validate_json(Image.open(io.BytesIO(png.content)).text[names.PNG_TEXT])  # type: ignore[attr-defined]


def test_json_by_accept(service: Service) -> None:
    answer = service.client.post(
        "/generate", json={"prompt": "a cat", "steps": 2, "seed": 7}, headers={"Accept": "application/json"}
    )
    assert base64.b64decode(answer.json()["images"][0]["png"]) == service.generate().content


def test_server_timing_names_every_stretch(service: Service) -> None:
    timing = service.generate().headers["server-timing"]
    spans = dict(part.split(";dur=") for part in timing.split(", "))
    assert list(spans) == ["queue", "steps", "decode", "encode"]
    assert float(spans["steps"]) > 0


OFFERED = ("image/png", "image/webp", "application/json")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/webp", "image/webp"),
        ("image/webp;q=0.5, application/json", "application/json"),
        ("image/png;q=0, image/*", "image/webp"),
        ("text/html, */*;q=0.1", "image/png"),
        ("APPLICATION/JSON", "application/json"),
        ("text/html", None),
        ("image/png;q=nonsense", None),
    ],
)
def test_accept(accept: str, expected: str | None) -> None:
    if expected:
        assert negotiate(accept, OFFERED) == expected
    else:
        with pytest.raises(NotAcceptableError, match="Accept must allow one of"):
            negotiate(accept, OFFERED)


def test_the_metadata_of_a_blend_names_its_adapters(styles: Service) -> None:
    blend = [{"version": 2, "weight": 0.5}, {"alias": "champion", "weight": 0.25}]
    answer = styles.generate(adapters=blend, scale=2.0)
    results = GenerationMetadata.model_validate_json(Image.open(io.BytesIO(answer.content)).text[names.PNG_TEXT])  # type: ignore[attr-defined]
    assert answer.headers[names.HEADER_VERSION] == results.version == "2+1"
    assert [(one.version, one.weight) for one in results.adapters] == [(2, 1.0), (1, 0.5)]
    assert results.adapter_digest is None
    assert names.HEADER_ADAPTER not in answer.headers
    swapped = styles.generate(adapters=[{"version": 1, "weight": 0.5}, {"version": 2}])
    assert np.abs(pixels_of(answer).astype(int) - pixels_of(swapped)).max() <= 1
    assert (pixels_of(answer) != pixels_of(styles.generate())).any()


def test_scale_0_gives_the_image_of_the_base_model(styles: Service) -> None:
    np.testing.assert_array_equal(pixels_of(styles.generate(version=3, scale=0)), pixels_of(styles.generate(base=True)))
    assert (pixels_of(styles.generate(version=3)) != pixels_of(styles.generate(version=3, scale=0.5))).any()


def test_a_blend_needs_one_base(styles: Service, store: FakeStore, tmp_path: Path) -> None:
    other = build_bundle(tmp_path / "other", seed=9)
    store.publish_bundle(tmp_path / "other", other.digest())
    build_adapter(tmp_path / "foreign", other.digest())
    number = store.publish_adapter(tmp_path / "foreign")
    detail = problem(styles.generate(adapters=[{"version": 1}, {"version": number}]), 422)
    assert "have the same base model" in detail
    assert other.digest()[:12] in detail


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"adapters": [{"version": 1}] * 5}, "4"),
        ({"adapters": [{"weight": 1.0}]}, "named by version or by alias"),
        ({"adapters": [{"version": 1, "alias": "champion"}]}, "named by version or by alias"),
        ({"adapters": [{"version": 1, "weight": 9}]}, "received 9"),
        ({"adapters": [{"version": 1}], "version": 1}, "name one of"),
        ({"scale": 5}, "received 5"),
        ({"guidance_until": 1.5}, "received 1.5"),
        ({"scheduler": "magic"}, "magic"),
        ({"n": 0}, "received 0"),
    ],
)
def test_new_fields_have_rules_too(service: Service, fields: dict[str, Any], words: str) -> None:
    assert words in problem(service.generate(**fields), 422)


@pytest.mark.parametrize("field", ["guidance_scale", "scale", "guidance_until"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_are_finite(service: Service, field: str, value: str) -> None:
    body = f'{{"prompt": "a cat", "{field}": {value}}}'
    response = service.client.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert field in problem(response, 422)


def test_mixed_requests_at_once_are_what_each_is_alone(styles: Service) -> None:
    """Different adapters, sizes, schedulers, steps and guidance at the same time; every image is drawn again alone."""
    requests = [
        {"seed": index, "steps": 3 + index % 5, "guidance_scale": (1.0, 4.0)[index % 2], "width": (32, 48)[index % 3 == 0]}
        | ({"version": 1 + index % 3} if index % 4 else {"base": True})
        | {"scheduler": ("ddim", "euler", "euler_ancestral", "dpmpp_2m_karras")[index % 4]}
        for index in range(16)
    ]
    answers = {}
    threads = [
        threading.Thread(target=lambda index=index, fields=fields: answers.update({index: styles.generate(**fields)}))
        for index, fields in enumerate(requests)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, fields in enumerate(requests):
        assert np.abs(pixels_of(answers[index]).astype(int) - pixels_of(styles.generate(**fields))).max() <= 1
    assert 'step_images_bucket{le="1.0"}' in styles.client.get("/metrics").text


def test_one_idempotency_key_generates_once(service: Service) -> None:
    fields = {"prompt": "a cat", "steps": 2}  # no seed: drawn twice it would differ
    headers = {"Idempotency-Key": "order 17"}
    first, again = (service.client.post("/generate", json=fields, headers=headers) for _ in range(2))
    assert first.status_code == 200
    assert first.content == again.content
    assert (
        'atelier_infer_images_total{alias="champion",outcome="succeeded",version="1"} 1.0'
        in service.client.get("/metrics").text
    )
    other = service.client.post("/generate", json=fields | {"steps": 3}, headers=headers)
    assert "'order 17' was used with another request" in problem(other, 422)


def test_a_key_whose_request_was_refused_is_free_again(
    service: Service, store: FakeStore, adapter: tuple[Path, AdapterManifest]
) -> None:
    fields, headers = {"prompt": "a cat", "steps": 2, "version": 2}, {"Idempotency-Key": "k"}
    problem(service.client.post("/generate", json=fields, headers=headers), 404)
    store.publish_adapter(adapter[0])
    assert service.client.post("/generate", json=fields, headers=headers).status_code == 200


def test_metrics_count_images_by_version(styles: Service) -> None:
    styles.generate()
    styles.generate(version=2)
    text = styles.client.get("/metrics").text
    for version, alias in (("1", "champion"), ("2", "")):
        assert f'atelier_infer_images_total{{alias="{alias}",outcome="succeeded",version="{version}"}} 1.0' in text
        assert f'atelier_infer_image_duration_seconds_count{{alias="{alias}",version="{version}"}} 1.0' in text
    assert "atelier_infer_adapters_loaded 2.0" in text
    assert "atelier_infer_bundles_loaded 1.0" in text
    assert "atelier_infer_step_duration_seconds_count 4.0" in text
    styles.client.headers.pop("Authorization")
    problem(styles.client.get("/metrics"), 401)


def test_versions_lists_what_a_request_may_name(
    styles: Service, store: FakeStore, adapter: tuple[Path, AdapterManifest]
) -> None:
    store.publish_adapter(adapter[0], kind="bundle")
    found = styles.client.get("/versions").json()
    assert [one["version"] for one in found["versions"]] == [3, 2, 1]
    assert [one["aliases"] for one in found["versions"]] == [[], [], ["champion"]]
    assert (found["native_size_px"], found["size_multiple_px"], found["max_side_px"]) == (32, 16, 1024)


def test_a_validation_image_is_fetched_once(styles: Service, store: FakeStore) -> None:
    store.images[2] = styles.generate().content
    for _ in range(2):
        answer = styles.client.get("/versions/2/image")
        assert answer.content == store.images[2]
    assert store.fetched.count("image 2") == 1
    assert "without validation images" in problem(styles.client.get("/versions/3/image"), 404)
    assert "no version 9" in problem(styles.client.get("/versions/9/image"), 404)
    store.images[1] = b"<svg/>"
    problem(styles.client.get("/versions/1/image"), 404)
