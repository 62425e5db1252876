"""POST /generate: images, and every refusal."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atelier_contracts import names
from atelier_contracts.generate import AppliedAdapter, GenerationMetadata
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from atelier_contracts.styles import SchedulerName
from atelier_infer.generation import service as service_module
from PIL import Image

from ..conftest import Service
from ..fake_store import FakeStore
from ..support import make_noise_non_finite, pixels_of, problem
from ..tiny_bundle import adapter_tensors, build_adapter


def test_an_image_contains_its_metadata(
    service: Service, adapter: tuple[Path, AdapterManifest], bundle: tuple[Path, BundleManifest]
) -> None:
    response = service.generate(prompt="a cät 😀", negative_prompt="a dog", guidance_scale=3.5, width=48)
    assert pixels_of(response).shape == (32, 48, 3)
    results = GenerationMetadata.model_validate_json(Image.open(io.BytesIO(response.content)).text[names.PNG_TEXT])  # type: ignore[attr-defined]
    assert results == GenerationMetadata(
        model="sketches",
        version="1",
        adapter_digest=adapter[1].digest(),
        bundle_digest=bundle[1].digest(),
        prompt="a cät 😀",
        negative_prompt="a dog",
        steps=2,
        guidance_scale=3.5,
        seed=7,
        width=48,
        height=32,
        scheduler="ddim",
        adapters=[AppliedAdapter(version=1, digest=adapter[1].digest(), weight=1.0)],
    )
    assert response.headers[names.HEADER_MODEL] == "sketches"
    assert response.headers[names.HEADER_VERSION] == "1"
    assert response.headers[names.HEADER_SEED] == "7"
    assert response.headers[names.HEADER_ADAPTER] == adapter[1].digest()
    assert response.headers[names.HEADER_BUNDLE] == bundle[1].digest()
    assert "warning" not in response.headers


def test_same_seed_same_bytes(service: Service) -> None:
    first, again, other = service.generate(), service.generate(), service.generate(seed=8)
    assert first.content == again.content
    assert first.content != other.content


def test_a_random_seed_is_returned(service: Service) -> None:
    first = service.client.post("/generate", json={"prompt": "a cat", "steps": 2})
    assert service.generate(seed=int(first.headers[names.HEADER_SEED])).content == first.content


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "euler_ancestral", "dpmpp_2m_karras"])
def test_the_scheduler_is_a_setting(
    make_service: Callable[..., Service], store: FakeStore, adapter: tuple[Path, AdapterManifest], scheduler: SchedulerName
) -> None:
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    service = make_service(scheduler=scheduler)
    response = service.generate(steps=3)
    pixels_of(response)
    assert json.loads(Image.open(io.BytesIO(response.content)).text[names.PNG_TEXT])["scheduler"] == scheduler  # type: ignore[attr-defined]


def test_base_is_the_champions_base_without_an_adapter(
    service: Service, store: FakeStore, bundle: tuple[Path, BundleManifest], tmp_path: Path
) -> None:
    tensors = adapter_tensors()
    silent = {key: value * (0 if "lora_B" in key else 1) for key, value in tensors.items()}
    build_adapter(tmp_path / "silent", bundle[1].digest(), silent)
    number = store.publish_adapter(tmp_path / "silent")
    for guidance in (1.0, 5.0):
        base = service.generate(base=True, guidance_scale=guidance)
        assert base.headers[names.HEADER_VERSION] == names.BASE_VERSION
        assert names.HEADER_ADAPTER not in base.headers
        # pixels of an adapter that adds nothing are those of none, bit for bit; the text chunk differs
        np.testing.assert_array_equal(pixels_of(base), pixels_of(service.generate(version=number, guidance_scale=guidance)))
        assert (pixels_of(base) != pixels_of(service.generate(guidance_scale=guidance))).any()


def test_a_cut_prompt_is_warned_of(service: Service) -> None:
    response = service.generate(prompt="cat " * 30, negative_prompt="dog " * 15)
    assert pixels_of(response).shape == (32, 32, 3)
    assert response.headers["warning"] == (
        '299 - "prompt truncated to 16 tokens: 16 dropped", 299 - "negative_prompt truncated to 16 tokens: 1 dropped"'
    )


BROKEN = [
    ({"width": 513}, ["width", "multiple of 16", "513", "512 or 528"]),
    ({"height": 0}, ["height", "received 0", "nearest valid: 16"]),
    ({"width": -5, "height": 33}, ["received -5", "received 33", "32 or 48"]),
    ({"width": 2048}, ["width", "to 1024", "2048", "nearest valid: 1024"]),
    ({"width": 1030}, ["1030", "nearest valid: 1024"]),
    ({"steps": 151}, ["steps", "150", "received 151"]),
    ({"steps": "many"}, ["steps", "integer", '"many"']),
    ({"guidance_scale": 31}, ["guidance_scale", "30", "received 31"]),
    ({"seed": 2**32}, ["seed", "4294967296"]),
    ({"seed": -1}, ["seed", "-1"]),
    ({"prompt": ""}, ["prompt", "at least 1 character"]),
    ({"prompt": "x" * 2001}, ["prompt", "2000", "2003 characters"]),
    ({"prompt": None}, ["prompt", "string", "null"]),
    ({"size": 512}, ["size is not a field"]),
    ({"version": 1, "base": True}, ["name one of version, alias, adapters and base", "version and base"]),
    ({"version": 0}, ["version", "received 0"]),
]


def test_values_that_break_a_rule(service: Service) -> None:
    for fields, words in BROKEN:
        detail = problem(service.generate(**fields), 422)  # type: ignore[arg-type]
        for word in words:
            assert word in detail, fields


def test_bodies_that_are_no_request(service: Service) -> None:
    cases = {b"{": "must be JSON", b"": "JSON object", b"[]": "JSON object", b'"x"': "Content-Type: application/json"}
    for content, words in cases.items():
        response = service.client.post("/generate", content=content, headers={"Content-Type": "application/json"})
        assert words in problem(response, 422)


def test_a_huge_body_is_not_read(service: Service) -> None:
    detail = problem(service.client.post("/generate", content=iter([b" " * 40_000] * 9)), 413)
    assert "65536 bytes" in detail


def test_no_token_no_answer(service: Service) -> None:
    service.client.headers.pop("Authorization")
    paths = [("POST", "/generate"), ("GET", "/models"), ("GET", "/openapi.json"), ("GET", "/nowhere"), ("GET", "/healthz/")]
    for authorization in (None, "Bearer", "Bearer wrong", "Basic cml0YTpwdw==", "rita-s token"):
        for method, path in paths:
            response = service.client.request(method, path, headers={"Authorization": authorization} if authorization else {})
            assert "token" in problem(response, 401)
            assert response.headers["www-authenticate"].startswith("Bearer ")
            assert "wrong" not in response.text


def test_a_revoked_token_ends_at_once(service: Service) -> None:
    assert service.client.get("/models").status_code == 200
    service.settings.token_file.write_text("# nobody\n")
    problem(service.client.get("/models"), 401)


def test_other_paths_and_methods_are_problems_too(service: Service) -> None:
    assert "GET /nowhere" in problem(service.client.get("/nowhere"), 404)
    assert "GET /generate" in problem(service.client.get("/generate"), 405)


def test_an_unknown_version_names_those_that_exist(
    service: Service, store: FakeStore, adapter: tuple[Path, AdapterManifest]
) -> None:
    store.publish_adapter(adapter[0])
    store.publish_adapter(adapter[0], kind="bundle")
    assert re.search(r"no version 9\b.*existing versions: 1, 2;", problem(service.generate(version=9), 404))


def test_an_unknown_alias_names_those_that_exist(service: Service) -> None:
    assert re.search(r"no alias 'rival'.*existing aliases: champion;", problem(service.generate(alias="rival"), 404))


def test_a_version_that_is_not_an_adapter_is_refused(
    service: Service, store: FakeStore, adapter: tuple[Path, AdapterManifest]
) -> None:
    number = store.publish_adapter(adapter[0], kind="bundle")
    assert f"version {number}" in problem(service.generate(version=number), 409)


@pytest.mark.parametrize("fields", [{}, {"base": True}, {"alias": "champion"}])
def test_without_a_champion_the_answer_is_how_to_make_one(
    make_service: Callable[..., Service], store: FakeStore, adapter: tuple[Path, AdapterManifest], fields: dict[str, Any]
) -> None:
    service = make_service(registry_url="http://registry:8001/")
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    assert "/versions/N/promote" in problem(service.generate(**fields), 409)
    store.publish_adapter(adapter[0])
    store.publish_adapter(adapter[0])
    command = shlex.split(problem(service.generate(**fields), 409).split("create one with: ")[1])
    assert command[:4] == ["curl", "-X", "POST", "http://registry:8001/models/sketches/versions/2/promote"]
    assert json.loads(command[-1]) == {"alias": "champion", "reason": "first version"}


def test_an_adapter_for_another_bundle_is_refused_with_both_digests(
    service: Service, store: FakeStore, bundle: tuple[Path, BundleManifest], tmp_path: Path
) -> None:
    build_adapter(tmp_path / "other", "f" * 64)
    number = store.publish_adapter(tmp_path / "other")
    detail = problem(service.generate(version=number), 409)
    assert "f" * 64 in detail  # no such bundle is registered
    store.publish_bundle(bundle[0], "f" * 64)  # now the registry names the wrong one
    number = store.publish_adapter(tmp_path / "other")
    detail = problem(service.generate(version=number), 409)
    assert "f" * 64 in detail
    assert bundle[1].digest() in detail


def test_weights_that_were_changed_are_refused(
    service: Service, store: FakeStore, bundle: tuple[Path, BundleManifest], tmp_path: Path
) -> None:
    build_adapter(tmp_path / "changed", bundle[1].digest(), weights_sha256="0" * 64)
    number = store.publish_adapter(tmp_path / "changed")
    assert "sha256 " + "0" * 64 in problem(service.generate(version=number), 502)


def test_a_version_whose_first_step_is_not_finite_is_refused(
    service: Service, store: FakeStore, bundle: tuple[Path, BundleManifest], tmp_path: Path
) -> None:
    build_adapter(tmp_path / "wild", bundle[1].digest(), adapter_tensors(scale=8e37))
    number = store.publish_adapter(tmp_path / "wild")
    assert "NaN or infinity" in problem(service.generate(version=number), 500)
    assert service.generate().status_code == 200


def test_a_non_finite_image_is_an_error(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    make_noise_non_finite(monkeypatch)
    assert "step 1 of 2 gave NaN or infinity" in problem(service.generate(), 500)


def test_an_unexpected_error_shows_no_details(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module.SamplingRules, "apply", lambda *_: 1 / 0)  # type: ignore[attr-defined]
    assert problem(service.generate(), 500).startswith("Internal server error; ")


def test_open_paths_need_no_login_and_show_no_details(service: Service) -> None:
    service.client.headers.pop("Authorization")
    assert service.client.get("/healthz").json() == {"status": "alive"}
    assert service.client.get("/readyz").json() == {"status": "ready"}


def test_openapi_documents_every_answer(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    answers = document["paths"]["/generate"]["post"]["responses"]
    assert set(answers) == {"200", "401", "403", "404", "406", "408", "409", "413", "422", "429", "500", "502", "503"}
    assert set(answers["200"]["content"]) == {"application/json", "image/png", "image/webp"}
    assert document["paths"]["/generate"]["post"]["security"] == [{"HTTPBearer": []}]
    assert all(list(answers[status]["content"]) == ["application/problem+json"] for status in answers if status != "200")


def test_a_line_per_request_without_secrets(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="atelier_infer"):
        service.generate(prompt="a very private cat")
        service.client.get("/healthz")
        service.wait(lambda: any(record.getMessage() == "request" for record in caplog.records))
    (line,) = [vars(record)["fields"] for record in caplog.records if record.getMessage() == "request"]
    assert {
        "method": "POST",
        "path": "/generate",
        "status": 200,
        "token_id": "rita",
        "version": "1",
        "seed": 7,
    }.items() <= line.items()
    assert "private" not in str(line)
    assert "token" not in str(line).replace("token_id", "")
