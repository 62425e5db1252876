"""Health, which anybody may ask for and nobody learns much from."""

import logging
import time

import pytest
from atelier_registry.api.health import Readiness
from atelier_registry.errors import DatabaseUnavailableError


def test_open_to_all(api):
    for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
        answer = api.client.get(path)
        assert answer.status_code == 200
        assert answer.json() == {"status": status}


@pytest.fixture
def impatient(monkeypatch):
    """Readiness is asked for anew each time."""
    monkeypatch.setattr(Readiness.__init__, "__defaults__", (0.0,))


@pytest.mark.parametrize("part", ["tracking", "database"])
def test_what_is_missing_is_told_by_the_log_once(start, fake, ledger, monkeypatch, caplog, impatient, part):
    caplog.set_level(logging.INFO, "atelier_registry.api.health")
    broken = set()

    def ping():
        if "database" in broken:
            raise DatabaseUnavailableError

    monkeypatch.setattr(ledger, "ping", ping)
    api = start(fake)
    for missing in ([], [part], []):
        broken.clear()
        broken.update(missing)
        fake.down = "tracking" in broken
        for _ in range(3):
            answer = api.client.get("/readyz")
            assert answer.status_code == (503 if missing else 200)
            assert answer.json() == {"status": "unavailable" if missing else "ready"}
            assert api.client.get("/healthz").status_code == 200
    said = [record.getMessage() for record in caplog.records if record.name == "atelier_registry.api.health"]
    assert said == [f"not ready: {part} does not answer", f"{part} answers again"]


def test_an_answer_is_kept_for_a_moment(api, fake):
    fake.calls.clear()
    for _ in range(5):
        api.client.get("/readyz")
    assert [call for call in fake.calls if call != "chain_head"] == ["ping"]


def test_slow_work_does_not_hold_up_the_loop(start, fake, adapters):
    from concurrent.futures import ThreadPoolExecutor

    def slow(name):
        time.sleep(1)

    fake.model = slow
    api = start(fake)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(api.get, f"/models/{adapters}") for _ in range(3)]
        time.sleep(0.2)
        begun = time.perf_counter()
        assert api.client.get("/healthz").status_code == 200
        assert time.perf_counter() - begun < 0.5
        assert not any(answer.done() for answer in waiting)
