"""Health, which anybody may ask for and nobody learns much from."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from atelier_registry.errors import DatabaseUnavailableError
from atelier_registry.storage.ledger import Ledger

from ..conftest import Api
from ..fake_registry import FakeRegistry


def test_health_needs_no_token(api: Api) -> None:
    for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
        answer = api.client.get(path)
        assert answer.status_code == 200
        assert answer.json() == {"status": status}


@pytest.mark.parametrize("part", ["tracking", "database"])
def test_an_unavailable_dependency_is_logged_once(
    start: Callable[..., Api],
    fake: FakeRegistry,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    part: str,
) -> None:
    caplog.set_level(logging.INFO, "atelier_registry.api.health")
    broken: set[Any] = set()

    def ping() -> None:
        if "database" in broken:
            raise DatabaseUnavailableError

    monkeypatch.setattr(ledger, "ping", ping)
    api = start(fake, readiness_ttl_s=0.0)
    for missing in ([], [part], []):
        broken.clear()
        broken.update(missing)
        fake.down = "tracking" in broken
        for _ in range(3):
            answer = api.client.get("/readyz")
            assert answer.status_code == (503 if missing else 200)
            assert answer.json() == {"status": "unavailable" if missing else "ready"}
            assert api.client.get("/healthz").status_code == 200
    records = [record for record in caplog.records if record.name == "atelier_registry.api.health"]
    messages = [(record.getMessage(), vars(record)["fields"]["dependency"]) for record in records]
    assert messages == [("dependency unavailable", part), ("dependency available again", part)]


def test_readiness_is_cached_for_a_moment(api: Api, fake: FakeRegistry) -> None:
    fake.calls.clear()
    for _ in range(5):
        api.client.get("/readyz")
    assert [call for call in fake.calls if call != "chain_head"] == ["ping"]


def test_requests_that_wait_for_mlflow_do_not_block_the_event_loop(
    start: Callable[..., Api], fake: FakeRegistry, adapters: str
) -> None:
    entered, release = threading.Semaphore(0), threading.Event()

    def slow(name: str) -> None:
        entered.release()
        assert release.wait(60)

    fake.model = slow
    api = start(fake)
    with ThreadPoolExecutor(4) as pool:
        try:
            names = [adapters, "other", "another"]  # equal reads would share one call
            waiting = [pool.submit(api.get, f"/models/{name}") for name in names]
            for _ in waiting:
                assert entered.acquire(timeout=20)
            assert pool.submit(api.client.get, "/healthz").result(20).status_code == 200  # type: ignore[attr-defined]
            assert not any(response.done() for response in waiting)
        finally:
            release.set()
