"""POST /generate: images, and every refusal."""

import io
import json
import re
import shlex
import socket
import threading

import numpy as np
import pytest
from atelier_contracts import names
from atelier_contracts.generate import AppliedAdapter, GenerationMetadata
from atelier_infer.engine import denoising_state
from atelier_infer.generation import service as service_module
from PIL import Image

from ..conftest import SECRET
from ..support import make_noise_non_finite, pixels_of, problem
from ..tiny_bundle import adapter_tensors, build_adapter


def test_an_image_says_how_it_was_drawn(service, adapter, bundle):
    response = service.generate(prompt="a cät 😀", negative_prompt="a dog", guidance_scale=3.5, width=48)
    assert pixels_of(response).shape == (32, 48, 3)
    drawn = GenerationMetadata.model_validate_json(Image.open(io.BytesIO(response.content)).text[names.PNG_TEXT])
    assert drawn == GenerationMetadata(
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


def test_same_seed_same_bytes(service):
    first, again, other = service.generate(), service.generate(), service.generate(seed=8)
    assert first.content == again.content
    assert first.content != other.content


def test_without_a_seed_one_is_drawn_and_returned(service):
    first = service.client.post("/generate", json={"prompt": "a cat", "steps": 2})
    assert service.generate(seed=int(first.headers[names.HEADER_SEED])).content == first.content


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "euler_ancestral", "dpmpp_2m_karras"])
def test_the_scheduler_is_a_setting(make_service, store, adapter, scheduler):
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    service = make_service(scheduler=scheduler)
    response = service.generate(steps=3)
    pixels_of(response)
    assert json.loads(Image.open(io.BytesIO(response.content)).text[names.PNG_TEXT])["scheduler"] == scheduler


def test_base_is_the_champions_base_without_an_adapter(service, store, bundle, tmp_path):
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


def test_a_cut_prompt_is_warned_of(service):
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


def test_values_that_break_a_rule(service):
    for wish, words in BROKEN:
        detail = problem(service.generate(**wish), 422)
        for word in words:
            assert word in detail, wish


def test_bodies_that_are_no_request(service):
    cases = {b"{": "must be JSON", b"": "JSON object", b"[]": "JSON object", b'"x"': "Content-Type: application/json"}
    for content, words in cases.items():
        response = service.client.post("/generate", content=content, headers={"Content-Type": "application/json"})
        assert words in problem(response, 422)


def test_a_huge_body_is_not_read(service):
    detail = problem(service.client.post("/generate", content=iter([b" " * 40_000] * 9)), 413)
    assert "65536 bytes" in detail


def test_no_token_no_answer(service):
    service.client.headers.pop("Authorization")
    paths = [("POST", "/generate"), ("GET", "/models"), ("GET", "/openapi.json"), ("GET", "/nowhere"), ("GET", "/healthz/")]
    for authorization in (None, "Bearer", "Bearer wrong", "Basic cml0YTpwdw==", "rita-s token"):
        for method, path in paths:
            response = service.client.request(method, path, headers={"Authorization": authorization} if authorization else {})
            assert "token" in problem(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
            assert "wrong" not in response.text


def test_a_revoked_token_ends_at_once(service):
    assert service.client.get("/models").status_code == 200
    service.settings.token_file.write_text("# nobody\n")
    problem(service.client.get("/models"), 401)


def test_other_paths_and_methods_are_problems_too(service):
    problem(service.client.get("/nowhere"), 404)
    problem(service.client.get("/generate"), 405)


def test_an_unknown_version_names_those_that_exist(service, store, adapter):
    store.publish_adapter(adapter[0])
    store.publish_adapter(adapter[0], kind="bundle")
    assert re.search(r"no version 9\b.*existing versions: 1, 2;", problem(service.generate(version=9), 404))


def test_an_unknown_alias_names_those_that_exist(service):
    assert re.search(r"no alias 'rival'.*existing aliases: champion;", problem(service.generate(alias="rival"), 404))


def test_a_version_that_is_no_adapter(service, store, adapter):
    number = store.publish_adapter(adapter[0], kind="bundle")
    assert f"version {number}" in problem(service.generate(version=number), 409)


@pytest.mark.parametrize("wish", [{}, {"base": True}, {"alias": "champion"}])
def test_without_a_champion_the_answer_is_how_to_make_one(make_service, store, adapter, wish):
    service = make_service(registry_url="http://registry:8001/")
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    assert "/versions/N/promote" in problem(service.generate(**wish), 409)
    store.publish_adapter(adapter[0])
    store.publish_adapter(adapter[0])
    command = shlex.split(problem(service.generate(**wish), 409).split("create one with: ")[1])
    assert command[:4] == ["curl", "-X", "POST", "http://registry:8001/models/sketches/versions/2/promote"]
    assert json.loads(command[-1]) == {"alias": "champion", "reason": "first version"}


def test_an_adapter_for_another_bundle_is_refused_with_both_digests(service, store, bundle, tmp_path):
    build_adapter(tmp_path / "other", "f" * 64)
    number = store.publish_adapter(tmp_path / "other")
    detail = problem(service.generate(version=number), 409)
    assert "f" * 64 in detail  # no such bundle is registered
    store.publish_bundle(bundle[0], "f" * 64)  # now the registry names the wrong one
    number = store.publish_adapter(tmp_path / "other")
    detail = problem(service.generate(version=number), 409)
    assert "f" * 64 in detail
    assert bundle[1].digest() in detail


def test_weights_that_were_changed_are_refused(service, store, bundle, tmp_path):
    build_adapter(tmp_path / "changed", bundle[1].digest(), weights_sha256="0" * 64)
    number = store.publish_adapter(tmp_path / "changed")
    assert "sha256 " + "0" * 64 in problem(service.generate(version=number), 502)


def test_a_version_whose_first_step_is_not_finite_is_refused(service, store, bundle, tmp_path):
    build_adapter(tmp_path / "wild", bundle[1].digest(), adapter_tensors(scale=8e37))
    number = store.publish_adapter(tmp_path / "wild")
    assert "NaN or infinity" in problem(service.generate(version=number), 500)
    assert service.generate().status_code == 200


def test_a_drawing_that_is_not_finite_is_an_error(service, monkeypatch):
    make_noise_non_finite(monkeypatch)
    assert "step 1 of 2 gave NaN or infinity" in problem(service.generate(), 500)


def test_an_unexpected_error_shows_no_details(service, monkeypatch):
    monkeypatch.setattr(service_module.SamplingRules, "apply", lambda *_: 1 / 0)
    assert problem(service.generate(), 500) == "Internal server error; see the log"


def test_open_paths_need_no_login_and_show_no_details(service):
    service.client.headers.pop("Authorization")
    assert service.client.get("/healthz").json() == {"status": "alive"}
    assert service.client.get("/readyz").json() == {"status": "ready"}


def test_models_shows_what_is_loaded(service, adapter, bundle):
    told = service.client.get("/models").json()
    assert told.pop("cache_mib") > 0
    memory = told.pop("memory")
    assert set(memory["used_mib"]) == {
        "process", "profiling", "bundles", "adapters", "concatenated_adapters", "images", "uploads", "arena"
    }  # fmt: skip
    assert memory["free_mib"] == pytest.approx(memory["limit_mib"] - sum(memory["used_mib"].values()), abs=1)
    assert told == {
        "model": "sketches",
        "scheduler": "ddim",
        "provider": "cpu",
        "adapters_mib": 0.0,
        "aliases": {
            "champion": {
                "target_version": 1,
                "serving_version": 1,
                "adapter_digest": adapter[1].digest(),
                "reverted_version": None,
                "problem": None,
            }
        },
        "canary": None,
        "adapters": [
            {
                "version": 1,
                "adapter_digest": adapter[1].digest(),
                "bundle_digest": bundle[1].digest(),
                "rank": 2,
                "size_mib": 0.0,
            }
        ],
        "bundles": [{"bundle_digest": bundle[1].digest(), "base_model": "tiny/base", "native_size_px": 32}],
        "admitted_images": 0,
        "cache_limit_mib": 16384,
    }


def test_openapi_documents_every_answer(service):
    document = service.client.get("/openapi.json").json()
    answers = document["paths"]["/generate"]["post"]["responses"]
    assert set(answers) == {"200", "401", "403", "404", "406", "408", "409", "413", "422", "429", "500", "502", "503"}
    assert set(answers["200"]["content"]) == {"application/json", "image/png", "image/webp"}
    assert document["paths"]["/generate"]["post"]["security"] == [{"HTTPBearer": []}]
    assert all(list(answers[status]["content"]) == ["application/problem+json"] for status in answers if status != "200")


def test_a_line_per_request_without_secrets(service, caplog):
    with caplog.at_level("INFO", logger="atelier_infer"):
        service.generate(prompt="a very private cat")
        service.client.get("/healthz")
        service.wait(lambda: any(record.getMessage() == "request" for record in caplog.records))
    (line,) = [record.fields for record in caplog.records if record.getMessage() == "request"]
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


@pytest.fixture
def stoppable(monkeypatch):
    """Drawings whose steps wait for `go`."""
    go, started = threading.Event(), threading.Event()

    class Slow(denoising_state.DenoisingState):
        steps_taken = 0

        def step(self, model_output) -> None:
            started.set()
            assert go.wait(20)
            type(self).steps_taken += 1
            super().step(model_output)

    monkeypatch.setattr(service_module, "DenoisingState", Slow)
    yield go, started, Slow
    go.set()


def test_a_full_queue_says_when_to_come_back(make_service, store, adapter, stoppable):
    go, started, _ = stoppable
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    service = make_service(queue_limit=1)
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(service.generate())) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert started.wait(20)
    service.wait(lambda: service.engine.admission.admitted == 2)
    refused = service.generate()
    assert "at most 1 images may wait" in problem(refused, 429)
    assert int(refused.headers["retry-after"]) >= 1
    go.set()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200, 200]
    assert service.generate().status_code == 200


def test_a_sender_who_hangs_up_ends_the_drawing_at_its_next_step(service, stoppable):
    go, started, slow = stoppable
    body = b'{"prompt": "a cat", "steps": 50}'
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((service.client.base_url.host, service.client.base_url.port)) as line:
        line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert started.wait(20)
    service.wait(lambda: all(task.cancelled.is_set() for task in service.engine._scheduler))
    go.set()
    service.wait(lambda: service.engine.admission.admitted == 0)
    assert service.generate(steps=1).status_code == 200  # the engine is free again
    assert slow.steps_taken == 2  # one of the fifty, and this one
