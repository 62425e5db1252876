"""Where a request names no value, the version's style recommends one; the image says so, and can be made again."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from atelier_contracts import names
from atelier_contracts.generate import GenerationMetadata
from atelier_contracts.styles import Recommended, Style
from atelier_infer.engine import denoising_state
from PIL import Image

from ..conftest import Service
from ..fake_store import FakeStore
from ..support import alias_state, changed, ended, pixels_of, verify, wait_until_ready
from ..tiny_bundle import build_bundle

OWN = Style(title="Ink", recommended=Recommended(steps=3, scale=0.5, scheduler="ddim", guidance_scale=2.0))
OPEN = {"prompt": "a cat", "seed": 7}


def text_of(png: bytes) -> dict[str, Any]:
    return json.loads(Image.open(io.BytesIO(png)).info[names.PNG_TEXT])


def values_of(response: Any) -> tuple[float | None, int, str, float]:
    assert response.status_code == 200, response.text
    metadata = GenerationMetadata.model_validate(text_of(response.content))
    weight = metadata.adapters[0].weight if metadata.adapters else None
    return weight, metadata.steps, metadata.scheduler, metadata.guidance_scale


@pytest.fixture
def styled(make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int]) -> Any:
    """Version 1 is the champion and has a style; version 2 has none."""
    store.set_alias("champion", publish(seed=1, style=OWN))
    publish(seed=5)
    service = make_service()
    wait_until_ready(service)
    return service


def generate(service: Service, **fields: Any) -> Any:
    return service.client.post("/generate", json=OPEN | fields)


def edit(service: Service, decision: int, **edits: Any) -> None:
    """As registry-api does it; waits until the service has read it."""
    service.store.edit_style(decision, **edits)
    service.wait(lambda: service.app.state.service._tracker.style_edits.decision == decision)


def test_recommended_values_hold_where_a_request_names_none(styled: Any) -> None:
    response = generate(styled)
    assert values_of(response) == (0.5, 3, "ddim", 2.0)
    fields = ["guidance_scale", "scale", "scheduler", "steps"]
    assert text_of(response.content)["recommended"] == {"version": 1, "decision": None, "fields": fields}
    explicit = generate(styled, steps=3, scale=0.5, scheduler="ddim", guidance_scale=2.0)
    assert (pixels_of(response) == pixels_of(explicit)).all()
    assert verify(styled, response.content).json()["matches"]


def test_what_a_request_names_always_holds(styled: Any) -> None:
    response = generate(styled, steps=2, scale=1.0)
    assert values_of(response) == (1.0, 2, "ddim", 2.0)
    assert text_of(response.content)["recommended"]["fields"] == ["guidance_scale", "scheduler"]
    every = generate(styled, steps=2, scale=1.0, scheduler="euler", guidance_scale=5.0)
    assert values_of(every) == (1.0, 2, "euler", 5.0)
    assert "recommended" not in text_of(every.content)


def test_without_a_style_the_defaults_hold_and_the_image_is_what_it_always_was(styled: Any) -> None:
    response = generate(styled, version=2)
    assert values_of(response) == (1.0, 25, styled.settings.scheduler, 5.0)
    assert "recommended" not in text_of(response.content)
    explicit = generate(styled, version=2, steps=25, scale=1.0, guidance_scale=5.0, scheduler=styled.settings.scheduler)
    assert response.content == explicit.content, "byte for byte"


def test_an_edit_holds_for_every_version_and_names_its_decision(styled: Any) -> None:
    before = generate(styled)
    edit(styled, 17, recommended={"steps": 4})
    after = generate(styled)
    assert values_of(after) == (0.5, 4, "ddim", 2.0)
    assert text_of(after.content)["recommended"]["decision"] == 17
    other = generate(styled, version=2)
    assert values_of(other) == (1.0, 4, styled.settings.scheduler, 5.0)
    assert text_of(other.content)["recommended"] == {"version": 2, "decision": 17, "fields": ["steps"]}
    for image in (before, after, other):
        assert verify(styled, image.content).json()["matches"], "what was made before an edit can be made again"
    edit(styled, 18)
    assert values_of(generate(styled)) == (0.5, 3, "ddim", 2.0), "the edit was taken back"


def test_an_edit_does_not_change_an_accepted_job(styled: Any, paced: Any) -> None:
    go, started, _ = paced
    job = styled.client.post("/jobs", json=OPEN).json()
    assert job["metadata"][0]["steps"] == 3
    assert started.wait(20)
    edit(styled, 17, recommended={"steps": 4})
    go.set()
    status = ended(styled, job["id"])
    assert (status.state, status.total_steps, status.metadata[0].steps) == ("succeeded", 3, 3)
    assert status.metadata[0].recommended is not None and status.metadata[0].recommended.decision is None


def test_a_key_gives_the_same_image_after_an_edit(styled: Any) -> None:
    headers = {"Idempotency-Key": "order-17"}
    first = styled.client.post("/generate", json=OPEN, headers=headers)
    edit(styled, 17, recommended={"steps": 4})
    assert styled.client.post("/generate", json=OPEN, headers=headers).content == first.content


def test_a_blend_takes_the_values_of_its_first_adapter_without_the_scale(styled: Any) -> None:
    blend = [{"version": 1, "weight": 0.7}, {"version": 2, "weight": 0.3}]
    response = generate(styled, adapters=blend)
    assert values_of(response) == (0.7, 3, "ddim", 2.0)
    assert text_of(response.content)["recommended"]["fields"] == ["guidance_scale", "scheduler", "steps"]
    assert values_of(generate(styled, adapters=blend[::-1]))[1] == 25
    assert verify(styled, response.content).json()["matches"]


def test_the_base_model_takes_none(styled: Any) -> None:
    response = generate(styled, base=True)
    assert values_of(response) == (None, 25, styled.settings.scheduler, 5.0)
    assert "recommended" not in text_of(response.content)


def test_openais_endpoint_takes_them_too(styled: Any) -> None:
    response = styled.client.post("/v1/images/generations", json=OPEN)
    png = base64.b64decode(response.json()["data"][0]["b64_json"])
    assert png == generate(styled).content
    named = styled.client.post("/v1/images/generations", json=OPEN | {"steps": 2, "scale": 1.0})
    assert text_of(base64.b64decode(named.json()["data"][0]["b64_json"]))["steps"] == 2


def test_steps_that_the_base_model_does_not_take_are_left_out_with_a_warning(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], tmp_path: Path
) -> None:
    short = build_bundle(tmp_path / "short", seed=9, schedule={"num_train_timesteps": 41})
    store.publish_bundle(tmp_path / "short", short.digest())
    style = Style(recommended=Recommended(steps=50, scale=0.5))
    store.set_alias("champion", publish(seed=1, bundle_digest=short.digest(), style=style))
    service = make_service()
    wait_until_ready(service)
    response = generate(service)
    assert values_of(response)[:2] == (0.5, 25)
    assert "50 recommended steps left out: this base model takes at most 40" in response.headers["warning"]
    assert text_of(response.content)["recommended"]["fields"] == ["scale"]


def test_a_canary_has_values_of_its_own_and_its_fallback_those_of_the_champion(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_alias("champion", publish(seed=1, style=OWN))
    store.set_alias("rival", publish(seed=5, style=Style(recommended=Recommended(steps=6))))
    service = make_service(canary_alias="rival", canary_percent=100)
    service.wait(lambda: (service.client.get("/models").json()["canary"] or {})["serving_version"] == 2)
    assert values_of(generate(service)) == (1.0, 6, service.settings.scheduler, 5.0)

    noise, first = vars(denoising_state)["initial_noise"], iter([float("nan")])
    monkeypatch.setattr(denoising_state, "initial_noise", lambda *shape: noise(*shape) * next(first, 1.0))
    response = generate(service, seed=8)
    assert values_of(response) == (0.5, 3, "ddim", 2.0)
    assert text_of(response.content)["recommended"]["version"] == 1


def test_a_tag_that_cannot_be_read_leaves_the_style_as_it_is(styled: Any, caplog: pytest.LogCaptureFixture) -> None:
    edit(styled, 17, recommended={"steps": 4})
    styled.store.style_tag = '{"decision": 18, "edits": {"recommended": {"steps": 1e9}}}'
    styled.wait(lambda: "invalid style tag" in caplog.text)
    assert values_of(generate(styled))[1] == 4
    polls = caplog.text.count("invalid style tag")
    assert polls == 1, "it is logged once"


def test_edits_outlive_a_restart_while_tracking_is_down(
    styled: Any, make_service: Callable[..., Service], store: FakeStore
) -> None:
    edit(styled, 17, title="Brush", recommended={"steps": 4})
    known = styled.settings.cache_dir / "last-known.json"
    styled.wait(lambda: json.loads(known.read_text())["style"]["decision"] == 17)
    store.down = True
    again = make_service()
    again.wait(lambda: alias_state(again).get("serving_version") == 1)
    assert values_of(generate(again))[1] == 4


def test_an_image_of_an_earlier_release_is_still_verified(styled: Any) -> None:
    response = generate(styled)
    assert verify(styled, changed(response.content, recommended=None)).json()["matches"]
