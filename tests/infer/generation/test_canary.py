"""A canary: a second alias for a share of the requests, by lot."""

from __future__ import annotations

import base64
import math
import re
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest
from atelier_contracts import names
from atelier_contracts.generate import GenerateRequest, GenerateResponse, JobStatus
from atelier_infer.client import Client, Image
from atelier_infer.generation.canary import Canary, traffic_bucket
from hypothesis import given, settings
from hypothesis import strategies as st

from ..conftest import SECRET, Service
from ..fake_store import FakeStore
from ..support import alias_of, ended, make_noise_non_finite, problem, version_of

REQUESTS = 4000


def fields(**fields: Any) -> GenerateRequest:
    return GenerateRequest.model_validate({"prompt": "a cat"} | fields)


# the lot


def binomial(share: float) -> float:
    """How far a count out of REQUESTS may be from its mean: six standard deviations, once in 5e8."""
    return 6 * math.sqrt(REQUESTS * share * (1 - share)) + 1


@settings(deadline=None, max_examples=40)
@given(percent=st.floats(0, 100), prompt=st.text(min_size=1, max_size=20), first=st.integers(0, 2**31))
def test_the_share_is_the_percent(percent: float, prompt: str, first: int) -> None:
    canary = Canary(alias="rival", percent=percent, tracker=None)
    share = percent / 100
    for lots in (
        (traffic_bucket(fields(prompt=prompt, seed=first + index), token_id="rita", key=None) for index in range(REQUESTS)),
        (traffic_bucket(fields(prompt=prompt), token_id="rita", key=f"{first} {index}") for index in range(REQUESTS)),
    ):
        assert abs(sum(map(canary.covers, lots)) - REQUESTS * share) <= binomial(share)


@given(key=st.text(), token=st.text(), seed=st.integers(0, 2**32 - 1))
def test_a_traffic_bucket_depends_on_the_request_alone(key: str, token: str, seed: int) -> None:
    results = traffic_bucket(fields(seed=seed), token_id=token, key=key)
    assert 0 <= results < 100
    # with a seed it is nobody's in particular, so that the same request and seed are the same image
    assert results == traffic_bucket(fields(seed=seed), token_id="ida", key=None)
    assert results != traffic_bucket(fields(seed=seed, steps=3), token_id=token, key=key)
    # without, it is the sender's and the key's
    keyed = traffic_bucket(fields(), token_id=token, key=key)
    assert keyed == traffic_bucket(fields(steps=3), token_id=token, key=key)
    assert keyed != traffic_bucket(fields(), token_id=token + "x", key=key)
    assert keyed != traffic_bucket(fields(), token_id=token, key=key + "x")


@given(low=st.floats(0, 100), more=st.floats(0, 100), results=st.floats(0, 100, exclude_max=True))
def test_a_larger_share_takes_no_request_back(low: float, more: float, results: float) -> None:
    small, large = (Canary(alias="rival", percent=percent, tracker=None) for percent in sorted((low, more)))
    assert large.covers(results) or not small.covers(results)
    assert Canary(alias="rival", percent=100, tracker=None).covers(results)
    assert not Canary(alias="rival", percent=0, tracker=None).covers(results)


def test_traffic_buckets_are_the_same_in_every_release() -> None:
    """Another hash would move requests from one version to the other at an update."""
    assert traffic_bucket(fields(), token_id="rita", key="order-17") == pytest.approx(18.398786770222486)
    assert traffic_bucket(fields(seed=7), token_id="rita", key="order-17") == pytest.approx(35.67046167693668)
    with pytest.raises(ValueError, match="give it a seed first"):
        traffic_bucket(fields(), token_id="rita", key=None)


# who draws


def test_the_bucket_decides_and_the_response_names_the_alias(canary: Callable[..., Service], store: FakeStore) -> None:
    service = canary(percent=50)
    found = {}
    for seed in range(24):
        answer = service.generate(seed=seed)
        expected = "rival" if traffic_bucket(fields(steps=2, seed=seed), token_id="rita", key=None) < 50 else "champion"
        assert (alias_of(answer), version_of(answer)) == (expected, {"champion": "1", "rival": "2"}[expected])
        found[seed] = answer
    assert {alias_of(answer) for answer in found.values()} == {"champion", "rival"}
    for seed, answer in found.items():
        assert service.generate(seed=seed).content == answer.content
    # in the text is the version, not what led to it: by its number the image is the same to the byte
    assert service.generate(seed=3, version=int(version_of(found[3]))).content == found[3].content


def test_requests_that_name_a_version_are_not_assigned(canary: Callable[..., Service]) -> None:
    service = canary()
    assert (alias_of(service.generate()), version_of(service.generate())) == ("rival", "2")
    assert (alias_of(service.generate(alias="champion")), version_of(service.generate(alias="champion"))) == ("champion", "1")
    assert alias_of(service.generate(alias="rival")) == "rival"
    for named, version in (
        ({"version": 1}, "1"),
        ({"base": True}, "base"),
        ({"adapters": [{"version": 1}]}, "1"),
        ({"adapters": [{"version": 1}, {"alias": "champion"}]}, "1+1"),
    ):
        answer = service.generate(**named)
        assert (alias_of(answer), version_of(answer)) == (None, version)
    assert service.count("canary_assignments_total", assignment="canary") == 2


def test_a_request_without_a_seed_is_the_same_image_with_the_seed_of_its_answer(canary: Callable[..., Service]) -> None:
    service = canary(percent=50)
    found = [service.client.post("/generate", json={"prompt": "a cat", "steps": 2}) for _ in range(12)]
    assert {alias_of(answer) for answer in found} == {"champion", "rival"}
    for answer in found:
        again = service.generate(seed=int(answer.headers[names.HEADER_SEED]))
        assert (alias_of(again), again.content) == (alias_of(answer), answer.content)


def test_a_key_is_the_same_version_when_its_images_are_long_forgotten(canary: Callable[..., Service]) -> None:
    service = canary(percent=50, job_retention_s=0)
    plain = {"prompt": "a cat", "steps": 2}
    found = {}
    for index in range(12):
        key = {"Idempotency-Key": f"order {index}"}
        answers = [service.client.post("/generate", json=plain, headers=key) for _ in range(3)]
        assert len({answer.headers[names.HEADER_SEED] for answer in answers}) == 3  # drawn anew each time
        (found[index],) = {alias_of(answer) for answer in answers}
        expected = "rival" if traffic_bucket(fields(), token_id="rita", key=f"order {index}") < 50 else "champion"
        assert found[index] == expected
    assert set(found.values()) == {"champion", "rival"}


def test_every_route_goes_the_same_way(canary: Callable[..., Service]) -> None:
    service = canary()
    several = GenerateResponse.model_validate_json(service.generate(n=2).content)
    assert (several.alias, [one.metadata.version for one in several.images]) == ("rival", ["2", "2"])
    created = service.client.post("/jobs", json={"prompt": "a cat", "steps": 2, "seed": 7})
    assert JobStatus.model_validate_json(created.content).alias == "rival"
    status = ended(service, created.json()["id"])
    assert (status.state, status.alias, status.metadata[0].version) == ("succeeded", "rival", "2")
    fetched = service.client.get(status.images[0])
    assert (alias_of(fetched), fetched.content) == ("rival", service.generate().content)
    with openai.OpenAI(base_url=f"{service.client.base_url}/v1", api_key=SECRET, max_retries=0) as stock:
        raw = stock.images.with_raw_response.generate(prompt="a cat", extra_body={"seed": 7, "steps": 2})
        assert raw.headers[names.HEADER_ALIAS] == "rival"
        assert base64.b64decode(raw.parse().data[0].b64_json) == fetched.content
        raw = stock.images.with_raw_response.generate(
            prompt="a cat", model="sketches@champion", extra_body={"seed": 7, "steps": 2}
        )
        assert raw.headers[names.HEADER_ALIAS] == "champion"
    with Client(str(service.client.base_url), SECRET, timeout_s=60) as client:
        assert client.generate("a cat", steps=2)[0].alias == "rival"
        assert client.generate("a cat", steps=2, version=1)[0].alias is None
        assert [one.alias for one in client.stream("a cat", steps=2) if isinstance(one, Image)] == ["rival"]


@pytest.mark.parametrize("named", [{}, {"alias": "champion"}, {"base": True}, {"version": 1, "scale": 0.5}])
def test_an_image_is_verified_by_its_version_whatever_the_bucket(canary: Callable[..., Service], named: dict[str, Any]) -> None:
    service = canary()
    answer = service.generate(**named)
    found = service.client.post("/verify", content=answer.content).json()
    assert (found["matches"], found["max_difference"]) == (True, 0)
    assert found["metadata"]["version"] == version_of(answer)


# how it is judged


def test_images_failures_and_seconds_by_version_and_alias(
    canary: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = canary()
    for asked in ({}, {"seed": 8}, {"alias": "champion"}, {"version": 2}, {"base": True}):
        service.generate(**asked)
    for blend in ([1, 2], [2, 1], [1, 2, 1]):
        service.generate(adapters=[{"version": number} for number in blend])
    results = {("2", "rival"): 2, ("1", "champion"): 1, ("2", ""): 1, ("base", ""): 1, ("blend", ""): 3}
    for (version, led), pictures in results.items():
        assert service.count("images_total", version=version, alias=led, outcome="succeeded") == pictures
        assert service.count("image_duration_seconds_count", version=version, alias=led) == pictures
        assert service.count("image_duration_seconds_sum", version=version, alias=led) > 0
    text = service.client.get("/metrics").text
    assert set(re.findall(r'images_total\{alias="(\w*)",outcome="succeeded",version="(\w+)"', text)) == {
        (led, version) for version, led in results
    }
    assert service.count("canary_assignments_total", assignment="canary") == 2
    make_noise_non_finite(monkeypatch)
    problem(service.generate(), 500)  # neither of them can draw it
    for version, led in (("2", "rival"), ("1", "champion")):
        assert service.count("images_total", version=version, alias=led, outcome="invalid") == 1
        assert service.count("image_duration_seconds_count", version=version, alias=led) == results[version, led]


def test_cancellation_counts_as_no_failure(
    canary: Callable[..., Service], paced: tuple[threading.Event, threading.Event, type[Any]]
) -> None:
    go, started, _ = paced
    service = canary()
    job = service.client.post("/jobs", json={"prompt": "a cat", "steps": 50, "seed": 7}).json()["id"]
    assert started.wait(20)
    assert service.client.delete(f"/jobs/{job}").status_code == 204
    go.set()
    service.wait(lambda: service.engine.admission.admitted == 0)
    assert service.count("images_total", version="2", alias="rival", outcome="cancelled") == 1
    assert service.count("canary_fallbacks_total") == 0
    assert alias_of(service.generate()) == "rival"
