"""A canary: a second alias for a share of the requests, by lot."""

import base64
import io
import math
import re
import threading

import numpy as np
import openai
import pytest
from atelier_contracts import names
from atelier_contracts.generate import Drawn, GenerateRequest, JobStatus, Pictures
from atelier_infer import desk, drawing, loader, versions
from atelier_infer.canary import Canary, lot
from atelier_infer.client import Client, Picture
from atelier_infer.drawing import Drawing
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from .conftest import SECRET
from .test_generate import problem
from .test_jobs import ended
from .test_live import alias, blank, ready, version_of
from .tiny_bundle import build_bundle

REQUESTS = 4000


def wish(**fields) -> GenerateRequest:
    return GenerateRequest.model_validate({"prompt": "a cat"} | fields)


def state(service) -> dict:
    return service.client.get("/models").json()["canary"]


def count(service, name: str, **labels: str) -> float:
    """Of `/metrics`; 0 where the series does not exist."""
    told = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    series = f"atelier_infer_{name}{{{told}}}" if told else f"atelier_infer_{name}"
    found = re.search(rf"^{re.escape(series)} (\S+)$", service.client.get("/metrics").text, re.M)
    return float(found[1]) if found else 0.0


def header(response) -> str | None:
    assert response.status_code == 200, response.text
    return response.headers.get(names.HEADER_ALIAS)


@pytest.fixture
def canary(make_service, store, publish):
    """A factory: version 1 is champion and 2 is rival, which has its share; both are loaded."""

    def make(percent: float = 100, **settings):
        store.set_alias("champion", publish(seed=1))
        store.set_alias("rival", publish(seed=5))
        service = make_service(canary_alias="rival", canary_percent=percent, **settings)
        service.wait(lambda: alias(service, "rival").get("serving") == 2 and alias(service)["serving"] == 1)
        return service

    return make


# the lot


def binomial(share: float) -> float:
    """How far a count out of REQUESTS may be from its mean: six standard deviations, once in 5e8."""
    return 6 * math.sqrt(REQUESTS * share * (1 - share)) + 1


@settings(deadline=None, max_examples=40)
@given(percent=st.floats(0, 100), prompt=st.text(min_size=1, max_size=20), first=st.integers(0, 2**31))
def test_the_share_is_the_percent(percent, prompt, first):
    canary = Canary(alias="rival", percent=percent, versions=None)
    share = percent / 100
    for lots in (
        (lot(wish(prompt=prompt, seed=first + index), token_id="rita", key=None) for index in range(REQUESTS)),
        (lot(wish(prompt=prompt), token_id="rita", key=f"{first} {index}") for index in range(REQUESTS)),
    ):
        assert abs(sum(map(canary.has, lots)) - REQUESTS * share) <= binomial(share)


@given(key=st.text(), token=st.text(), seed=st.integers(0, 2**32 - 1))
def test_a_lot_is_the_requests_own(key, token, seed):
    drawn = lot(wish(seed=seed), token_id=token, key=key)
    assert 0 <= drawn < 100
    # with a seed it is nobody's in particular, so that the same request and seed are the same picture
    assert drawn == lot(wish(seed=seed), token_id="ida", key=None)
    assert drawn != lot(wish(seed=seed, steps=3), token_id=token, key=key)
    # without, it is the sender's and the key's
    keyed = lot(wish(), token_id=token, key=key)
    assert keyed == lot(wish(steps=3), token_id=token, key=key)
    assert keyed != lot(wish(), token_id=token + "x", key=key)
    assert keyed != lot(wish(), token_id=token, key=key + "x")


@given(low=st.floats(0, 100), more=st.floats(0, 100), drawn=st.floats(0, 100, exclude_max=True))
def test_a_larger_share_takes_no_request_back(low, more, drawn):
    small, large = (Canary(alias="rival", percent=percent, versions=None) for percent in sorted((low, more)))
    assert large.has(drawn) or not small.has(drawn)
    assert Canary(alias="rival", percent=100, versions=None).has(drawn)
    assert not Canary(alias="rival", percent=0, versions=None).has(drawn)


def test_lots_are_the_same_in_every_release():
    """Another hash would move requests from one version to the other at an update."""
    assert lot(wish(), token_id="rita", key="order-17") == pytest.approx(18.398786770222486)
    assert lot(wish(seed=7), token_id="rita", key="order-17") == pytest.approx(35.67046167693668)
    with pytest.raises(ValueError, match="give it a seed first"):
        lot(wish(), token_id="rita", key=None)


# who draws


def test_lots_decide_and_the_answer_says_which_it_was(canary, store):
    service = canary(percent=50)
    found = {}
    for seed in range(24):
        answer = service.draw(seed=seed)
        expected = "rival" if lot(wish(steps=2, seed=seed), token_id="rita", key=None) < 50 else "champion"
        assert (header(answer), version_of(answer)) == (expected, {"champion": "1", "rival": "2"}[expected])
        found[seed] = answer
    assert {header(answer) for answer in found.values()} == {"champion", "rival"}
    for seed, answer in found.items():
        assert service.draw(seed=seed).content == answer.content
    # in the text is the version, not what led to it: by its number the picture is the same to the byte
    assert service.draw(seed=3, version=int(version_of(found[3]))).content == found[3].content


def test_what_names_a_version_draws_no_lot(canary):
    service = canary()
    assert (header(service.draw()), version_of(service.draw())) == ("rival", "2")
    assert (header(service.draw(alias="champion")), version_of(service.draw(alias="champion"))) == ("champion", "1")
    assert header(service.draw(alias="rival")) == "rival"
    for named, version in (
        ({"version": 1}, "1"),
        ({"base": True}, "base"),
        ({"adapters": [{"version": 1}]}, "1"),
        ({"adapters": [{"version": 1}, {"alias": "champion"}]}, "1+1"),
    ):
        answer = service.draw(**named)
        assert (header(answer), version_of(answer)) == (None, version)
    assert count(service, "canary_lots_total", outcome="canary") == 2


def test_a_request_without_a_seed_is_the_same_picture_with_the_seed_of_its_answer(canary):
    service = canary(percent=50)
    found = [service.client.post("/generate", json={"prompt": "a cat", "steps": 2}) for _ in range(12)]
    assert {header(answer) for answer in found} == {"champion", "rival"}
    for answer in found:
        again = service.draw(seed=int(answer.headers[names.HEADER_SEED]))
        assert (header(again), again.content) == (header(answer), answer.content)


def test_a_key_is_the_same_version_when_its_pictures_are_long_forgotten(canary):
    service = canary(percent=50, job_keep_s=0)
    plain = {"prompt": "a cat", "steps": 2}
    found = {}
    for index in range(12):
        key = {"Idempotency-Key": f"order {index}"}
        answers = [service.client.post("/generate", json=plain, headers=key) for _ in range(3)]
        assert len({answer.headers[names.HEADER_SEED] for answer in answers}) == 3  # drawn anew each time
        (found[index],) = {header(answer) for answer in answers}
        expected = "rival" if lot(wish(), token_id="rita", key=f"order {index}") < 50 else "champion"
        assert found[index] == expected
    assert set(found.values()) == {"champion", "rival"}


def test_every_route_goes_the_same_way(canary):
    service = canary()
    several = Pictures.model_validate_json(service.draw(n=2).content)
    assert (several.alias, [one.drawn.version for one in several.pictures]) == ("rival", ["2", "2"])
    created = service.client.post("/jobs", json={"prompt": "a cat", "steps": 2, "seed": 7})
    assert JobStatus.model_validate_json(created.content).alias == "rival"
    status = ended(service, created.json()["id"])
    assert (status.state, status.alias, status.drawn[0].version) == ("done", "rival", "2")
    fetched = service.client.get(status.pictures[0])
    assert (header(fetched), fetched.content) == ("rival", service.draw().content)
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
        assert [one.alias for one in client.stream("a cat", steps=2) if isinstance(one, Picture)] == ["rival"]


@pytest.mark.parametrize("named", [{}, {"alias": "champion"}, {"base": True}, {"version": 1, "scale": 0.5}])
def test_a_picture_is_verified_by_its_version_whatever_the_lot(canary, named):
    service = canary()
    answer = service.draw(**named)
    found = service.client.post("/verify", content=answer.content).json()
    assert (found["same"], found["max_difference"]) == (True, 0)
    assert found["drawn"]["version"] == version_of(answer)


# who steps in


def test_without_a_canary_nothing_is_said_of_one(service):
    assert state(service) is None
    assert header(service.draw()) == "champion"
    assert "canary_takes_requests" not in service.client.get("/metrics").text


def test_an_alias_that_does_not_exist_leaves_everything_to_the_champion(make_service, store, publish):
    store.set_alias("champion", publish(seed=1))
    service = make_service(canary_alias="rival", canary_percent=100)
    service.wait(lambda: ready(service) == (200, "ready"))
    assert header(service.draw()) == "champion"
    assert state(service) == {
        "alias": "rival",
        "percent": 100.0,
        "serving": None,
        "takes_requests": False,
        "why_not": "the registry has no alias 'rival'; promote a version as rival",
    }
    assert ready(service) == (200, "ready")
    assert count(service, "canary_lots_total", outcome="aside") == 1
    assert count(service, "canary_takes_requests") == 0
    # nobody has to ask for it: it is loaded once it is there
    store.set_alias("rival", publish(seed=5))
    service.wait(lambda: state(service)["takes_requests"])
    assert (state(service)["serving"], state(service)["why_not"]) == (2, None)
    assert (header(service.draw()), count(service, "canary_takes_requests")) == ("rival", 1)
    store.delete_alias("rival")
    service.wait(lambda: not state(service)["takes_requests"])
    assert header(service.draw()) == "champion"


def test_while_it_is_loaded_the_champion_draws_and_readiness_does_not_wait(make_service, store, publish, monkeypatch):
    store.set_alias("champion", publish(seed=1))
    store.set_alias("a-rival", publish(seed=5))  # before the champion in the alphabet
    go, fetch = threading.Event(), store.fetch_adapter
    monkeypatch.setattr(store, "fetch_adapter", lambda number, into: (number == 1 or go.wait(20)) and fetch(number, into))
    service = make_service(canary_alias="a-rival", canary_percent=100)
    service.wait(lambda: ready(service) == (200, "ready"))
    assert state(service)["why_not"] == "version 2 is being loaded"
    assert header(service.draw()) == "champion"
    go.set()
    service.wait(lambda: header(service.draw()) == "a-rival")


def test_a_version_that_is_refused_draws_nothing(make_service, store, publish, monkeypatch):
    monkeypatch.setattr(loader, "REMEMBERED_S", 0.0)
    monkeypatch.setattr(versions, "SLOWEST_RETRY_S", 0.1)
    store.set_alias("champion", publish(seed=1))
    store.set_alias("rival", publish(seed=5, weights_sha256="0" * 64))
    service = make_service(canary_alias="rival", canary_percent=100)
    service.wait(lambda: "was refused" in (state(service)["why_not"] or ""))
    assert "0" * 64 in state(service)["why_not"]
    assert header(service.draw()) == "champion"
    store.set_alias("rival", publish(seed=6))
    service.wait(lambda: header(service.draw()) == "rival")
    # one that is refused later leaves the one before it, as with any alias
    store.set_alias("rival", publish(seed=7, weights_sha256="0" * 64))
    service.wait(lambda: alias(service, "rival")["problem"])
    assert version_of(service.draw()) == "3"


def test_without_a_champion_nothing_draws(canary, store):
    service = canary(percent=50)
    store.delete_alias("champion")
    service.wait(lambda: "no champion" in (state(service)["why_not"] or ""))
    for seed in range(8):
        problem(service.draw(seed=seed), 409)
    assert version_of(service.draw(alias="rival")) == "2"


def test_a_share_of_nothing(canary):
    service = canary(percent=0)
    assert state(service)["why_not"] == "its share is 0 percent"
    assert {header(service.draw(seed=seed)) for seed in range(8)} == {"champion"}


@pytest.mark.parametrize("earlier", [False, True])
def test_blank_pictures_end_it_until_the_alias_serves_another(canary, store, publish, monkeypatch, earlier):
    """With and without a version that the alias can step back to: the champion draws either way."""
    service = canary()
    if earlier:
        store.set_alias("rival", publish(seed=6))
        service.wait(lambda: alias(service, "rival")["serving"] == 3)
    struck = alias(service, "rival")["serving"]
    with monkeypatch.context() as patch:
        blank(service, patch)
        for _ in range(2):
            answer = service.draw()
            assert (header(answer), version_of(answer)) == ("rival", str(struck))
            assert 'blank"' in answer.headers["warning"]
    assert header(service.draw()) == "champion"
    assert state(service)["serving"] == (2 if earlier else struck)
    assert f"version {struck} drew blank or non-finite pictures" in state(service)["why_not"]
    # a sound picture of it that somebody asks for by name does not bring it back, nor does a target that is refused
    assert version_of(service.draw(version=struck)) == str(struck)
    store.set_alias("rival", publish(seed=8, weights_sha256="0" * 64))
    service.wait(lambda: "0" * 64 in (alias(service, "rival")["problem"] or ""))
    assert header(service.draw()) == "champion"
    store.set_alias("rival", publish(seed=7))
    service.wait(lambda: header(service.draw()) == "rival")
    assert count(service, "pictures_total", version=str(struck), alias="rival", outcome="unsound") == 2


class Wild(Drawing):
    """Every step of the canary's version gives infinity; the champion's are as ever."""

    seeds: tuple[int, ...] = ()

    def take(self, out) -> None:
        rival = any(adapter.digest in RIVALS for adapter, _ in self.mix)
        super().take(out * np.inf if rival and self.plan.seed in self.seeds else out)


RIVALS: set[str] = set()


@pytest.fixture
def wild(monkeypatch):
    """A factory: from now on version 2 fails for these seeds."""

    def make(service, *seeds: int) -> None:
        adapters = service.client.get("/models").json()["adapters"]
        RIVALS.update(one["adapter_digest"] for one in adapters if one["version"] == 2)
        monkeypatch.setattr(desk, "Drawing", type("Wild", (Wild,), {"seeds": seeds}))

    yield make
    RIVALS.clear()


def test_what_it_fails_to_draw_the_champion_draws(canary, wild):
    service = canary()
    champions = service.draw(alias="champion")
    wild(service, 7)
    answer = service.draw()
    assert (header(answer), version_of(answer), answer.content) == ("champion", "1", champions.content)
    assert count(service, "pictures_total", version="2", alias="rival", outcome="unsound") == 1
    assert count(service, "canary_redrawn_total") == 1
    problem(service.draw(alias="rival"), 500)  # who asks for it by name is told
    assert header(service.draw(seed=8)) == "champion"  # that was the second in a row
    assert count(service, "canary_redrawn_total") == 1


def test_a_job_of_several_pictures_is_drawn_by_one_version(canary, wild):
    service = canary()
    wild(service, 8)  # the second of them
    job = service.client.post("/jobs", json={"prompt": "a cat", "steps": 2, "seed": 7, "n": 3}).json()["id"]
    status = ended(service, job)
    assert (status.state, status.alias, status.problem) == ("done", "champion", None)
    for index, path in enumerate(status.pictures):
        answer = service.client.get(path)
        text = Drawn.model_validate_json(Image.open(io.BytesIO(answer.content)).text[names.PNG_TEXT])
        assert (header(answer), text.version, text.seed) == ("champion", "1", 7 + index)
        assert service.client.post("/verify", content=answer.content).json()["same"]
    assert service.engine.admitted == 0


def test_a_base_that_cannot_draw_the_size_leaves_it_to_the_champion(canary, store, publish, tmp_path):
    service = canary()
    other = build_bundle(tmp_path / "other", seed=9, manifest_changes={"native_size_px": 64, "size_multiple_px": 32})
    store.publish_bundle(tmp_path / "other", other.digest())
    store.set_alias("rival", publish(seed=6, bundle_digest=other.digest()))
    service.wait(lambda: state(service)["serving"] == 3)
    assert version_of(service.draw(width=64, height=64)) == "3"
    answer = service.draw(width=48)
    assert (header(answer), version_of(answer)) == ("champion", "1")
    assert count(service, "canary_lots_total", outcome="unfit") == 1
    assert "nearest legal" in problem(service.draw(width=33), 422)  # what the champion refuses is refused


def test_a_canary_under_load_fails_no_request_while_its_alias_moves(canary, store, publish, wild):
    service = canary(percent=50)
    wild(service, *range(0, 40, 3))
    stop, answers = threading.Event(), []

    def draw(first: int) -> None:
        for seed in range(first, 10_000, 4):
            if stop.is_set():
                return
            answers.append(service.draw(seed=seed % 40))

    threads = [threading.Thread(target=draw, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for change in (lambda: store.delete_alias("rival"), lambda: store.set_alias("rival", publish(seed=6))):
        drawn = len(answers)
        service.wait(lambda drawn=drawn: len(answers) > drawn + 12)
        change()
    service.wait(lambda: state(service)["takes_requests"])
    drawn = len(answers)
    service.wait(lambda: len(answers) > drawn + 12)
    stop.set()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert {(header(answer), version_of(answer)) for answer in answers} >= {("champion", "1"), ("rival", "3")}


# how it is judged


def test_pictures_failures_and_seconds_by_version_and_alias(canary, monkeypatch):
    service = canary()
    for asked in ({}, {"seed": 8}, {"alias": "champion"}, {"version": 2}, {"base": True}):
        service.draw(**asked)
    for blend in ([1, 2], [2, 1], [1, 2, 1]):
        service.draw(adapters=[{"version": number} for number in blend])
    drawn = {("2", "rival"): 2, ("1", "champion"): 1, ("2", ""): 1, ("base", ""): 1, ("blend", ""): 3}
    for (version, led), pictures in drawn.items():
        assert count(service, "pictures_total", version=version, alias=led, outcome="drawn") == pictures
        assert count(service, "picture_seconds_count", version=version, alias=led) == pictures
        assert count(service, "picture_seconds_sum", version=version, alias=led) > 0
    text = service.client.get("/metrics").text
    assert set(re.findall(r'pictures_total\{alias="(\w*)",outcome="drawn",version="(\w+)"', text)) == {
        (led, version) for version, led in drawn
    }
    assert count(service, "canary_lots_total", outcome="canary") == 2
    monkeypatch.setattr(drawing, "initial_noise", lambda *_: np.full((1, 4, 4, 4), np.nan, np.float32))
    problem(service.draw(), 500)  # neither of them can draw it
    for version, led in (("2", "rival"), ("1", "champion")):
        assert count(service, "pictures_total", version=version, alias=led, outcome="unsound") == 1
        assert count(service, "picture_seconds_count", version=version, alias=led) == drawn[version, led]


def test_what_is_cancelled_is_nobodys_failure(canary, paced):
    go, started, _ = paced
    service = canary()
    job = service.client.post("/jobs", json={"prompt": "a cat", "steps": 50, "seed": 7}).json()["id"]
    assert started.wait(20)
    assert service.client.delete(f"/jobs/{job}").status_code == 204
    go.set()
    service.wait(lambda: service.engine.admitted == 0)
    assert count(service, "pictures_total", version="2", alias="rival", outcome="cancelled") == 1
    assert count(service, "canary_redrawn_total") == 0
    assert header(service.draw()) == "rival"
