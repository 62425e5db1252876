"""What waits, or was let in before, does not keep others out: infer, bodies, streams."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Semaphore

import pytest
from atelier_registry.app import MAX_BODY_BYTES
from atelier_registry.bootstrap import MAX_INFER_PREVIEWS
from atelier_registry.config.policy import Policy
from atelier_registry.storage.locks import AliasLocks
from sqlalchemy import Engine

from ..conftest import TOKENS, Api, write_tokens
from ..events.test_event_stream import served
from ..fake_infer_client import FakeInferClient
from ..fake_registry import FakeRegistry


@pytest.fixture
def slow(infer_client: FakeInferClient) -> Iterator[tuple[threading.Event, Semaphore]]:
    """An infer that answers nobody until `go` is set."""
    go, entered = threading.Event(), threading.Semaphore(0)

    def before() -> None:
        entered.release()
        go.wait(30)

    infer_client.before = before
    yield go, entered
    go.set()


def test_readers_that_wait_for_infer_do_not_block_others(
    start: Callable[..., Api],
    fake: FakeRegistry,
    adapters: str,
    infer_client: FakeInferClient,
    slow: tuple[threading.Event, Semaphore],
) -> None:
    api = start(fake, policy=Policy.model_validate({"default": {"champion": {"loads": True}, "candidate": {}}}))
    drawing = {"versions": [1], "images": [{"prompt": "a cat"}]}
    go, entered = slow
    draw = partial(api.as_("rita").post, f"/models/{adapters}/generate", drawing)
    waiting = [threading.Thread(target=draw) for _ in range(MAX_INFER_PREVIEWS)]
    for thread in waiting:
        thread.start()
    for _ in waiting:
        assert entered.acquire(timeout=30)
    refused = api.as_("rita").get(f"/models/{adapters}/versions/1/verdict")
    assert refused.status_code == 503
    assert "may wait for infer at the same time" in refused.json()["detail"]
    assert refused.headers["retry-after"]
    assert api.get(f"/models/{adapters}").status_code == 200
    assert api.promote(adapters, 1, alias="candidate").status_code == 200  # needs no infer
    decided = []
    deciding = threading.Thread(target=lambda: decided.append(api.promote(adapters, 1).status_code))
    deciding.start()
    assert entered.acquire(timeout=30)  # decisions have room of their own
    go.set()
    for thread in (*waiting, deciding):
        thread.join(30)
    assert decided == [200]
    assert api.as_("rita").get(f"/models/{adapters}/versions/1/verdict").status_code == 200


def test_a_body_that_is_too_large_is_refused(api: Api, adapters: str) -> None:
    answer = api.post(f"/models/{adapters}/versions/1/promote", {"reason": "x" * MAX_BODY_BYTES})
    assert answer.status_code == 413
    assert f"{MAX_BODY_BYTES} bytes" in answer.json()["detail"]
    assert api.history(adapters) == []


@pytest.mark.parametrize("text", [r"\ud800", r"a \udfff b"])
def test_a_lone_surrogate_is_refused(api: Api, adapters: str, text: str) -> None:
    headers = {"Authorization": "Bearer pia-secret", "Content-Type": "application/json"}
    answer = api.client.post(f"/models/{adapters}/versions/1/promote", content=f'{{"reason": "{text}"}}', headers=headers)
    assert answer.status_code == 422
    assert "surrogates" in answer.json()["detail"]
    assert api.history(adapters) == []


def test_a_stream_ends_when_its_token_is_revoked(
    fake: FakeRegistry, engine: Engine, locks: AliasLocks, token_file: Path, infer_client: FakeInferClient
) -> None:
    with served(fake, engine, locks, token_file, infer_client) as api:
        client, headers = api.client, {"Authorization": "Bearer rita-secret"}
        with client.stream("GET", "/events", headers=headers) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith(": after")
            write_tokens(token_file, {id: role for id, role in TOKENS.items() if id != "rita"})
            assert [line for line in lines if line] == []  # it ends, without another event
        assert client.get("/models", headers=headers).status_code == 401


def test_metrics_count_requests_and_decisions(start: Callable[..., Api], fake: FakeRegistry, adapters: str) -> None:
    api = start(fake)
    api.promote(adapters, 1)
    api.get("/models/x%20y")
    text = api.as_("rita").get("/metrics").text
    assert 'atelier_registry_decisions_total{action="promote",outcome="done"} 1.0' in text
    assert 'method="POST",route="/models/{name}/versions/{version}/promote",status="200"' in text
    assert "x y" not in text
    assert "atelier_registry_changed_versions 0.0" in text
    assert "atelier_registry_chain_broken 0.0" in text
    assert api.client.get("/metrics").status_code == 401


def test_health_endpoints_answer_head(api: Api) -> None:
    for path in ("/healthz", "/readyz"):
        assert api.client.head(path).status_code == 200
        assert json.loads(api.client.get(path).text)["status"] in ("ok", "ready")
