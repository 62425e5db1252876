"""Liveness."""

from __future__ import annotations

import threading

import pytest

from ..conftest import Service


def test_healthz_fails_when_the_engine_thread_is_dead(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    assert service.client.get("/healthz").json() == {"status": "alive"}
    service.engine._stuck_after_s = 0.05
    held = threading.Event()
    thread = threading.Thread(target=service.engine.run_between_steps, args=(lambda: held.wait(20),))
    thread.start()
    service.wait(lambda: service.client.get("/healthz").status_code == 503)
    assert service.client.get("/healthz").json() == {"status": "stuck"}
    assert service.client.get("/readyz").status_code == 200
    held.set()
    thread.join()
    service.wait(lambda: service.client.get("/healthz").status_code == 200)
