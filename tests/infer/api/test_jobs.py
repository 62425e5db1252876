"""/jobs: progress, previews, cancellation, keeping."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from atelier_contracts.generate import GenerateRequest
from atelier_contracts.manifests import AdapterManifest
from atelier_infer.errors import UnknownVersionError
from atelier_infer.generation import service as service_module
from atelier_infer.generation.job_store import JobStore
from atelier_infer.generation.service import SubmitOptions
from PIL import Image

from ..conftest import Service
from ..fake_store import FakeStore
from ..support import REQUEST, ended, events, make_noise_non_finite, problem


def test_a_job_from_submission_to_its_images(service: Service) -> None:
    answer = service.client.post("/jobs", json=REQUEST | {"n": 2})
    assert answer.status_code == 202
    job = answer.json()["id"]
    assert answer.headers["location"] == f"/jobs/{job}"
    status = ended(service, job)
    assert (status.state, status.completed_steps, status.total_steps, status.queue_position, status.seconds_left) == (
        "succeeded",
        8,
        8,
        None,
        None,
    )
    assert [one.seed for one in status.metadata] == [7, 8]
    assert status.images == [f"/jobs/{job}/images/0", f"/jobs/{job}/images/1"]
    png = service.client.get(status.images[1])
    assert png.headers["x-atelier-seed"] == "8"
    assert Image.open(io.BytesIO(png.content)).size == (32, 32)
    webp = service.client.get(status.images[1], headers={"Accept": "image/webp"})
    assert Image.open(io.BytesIO(webp.content)).format == "WEBP"


def test_events_report_every_step_with_previews(
    service: Service, paced: tuple[threading.Event, threading.Event, type[Any]]
) -> None:
    go, started, slow = paced
    slow.pause_s = 0.2  # a preview is decoded while the next steps are taken
    job = service.client.post("/jobs", json=REQUEST | {"steps": 15}).json()["id"]
    assert started.wait(20)
    found = []
    reader = threading.Thread(target=lambda: found.extend(events(service, job)))
    reader.start()
    order = next(iter(service.jobs().values()))
    service.wait(lambda: order.events.subscribers)
    go.set()
    reader.join()
    kinds = [name for name, _ in found]
    assert kinds[0] == "status"
    assert found[0][1]["state"] == "running"
    assert [data["step"] for name, data in found if name == "step"] == list(range(1, 16))
    preview = next(data for name, data in found if name == "preview")
    assert Image.open(io.BytesIO(base64.b64decode(preview["webp"]))).format == "WEBP"
    assert kinds[-2:] == ["image", "end"]
    assert found[-1][1]["state"] == "succeeded"
    assert [name for name, _ in events(service, job)] == ["status", "end"]  # read again after the end


def test_without_previews_there_are_none(service: Service, paced: tuple[threading.Event, threading.Event, type[Any]]) -> None:
    go, started, _ = paced
    job = service.client.post("/jobs", json=REQUEST).json()["id"]
    assert started.wait(20)
    found = []
    reader = threading.Thread(target=lambda: found.extend(events(service, job, previews="false")))
    reader.start()
    service.wait(lambda: next(iter(service.jobs().values())).events.subscribers)
    go.set()
    reader.join()
    assert "preview" not in {name for name, _ in found}


def test_position_and_time_left(service: Service, paced: tuple[threading.Event, threading.Event, type[Any]]) -> None:
    go, started, _ = paced
    jobs = [service.client.post("/jobs", json=REQUEST | {"width": width}).json() for width in (32, 48)]
    assert started.wait(20)
    statuses = [service.client.get(f"/jobs/{job['id']}").json() for job in jobs]
    assert [status["queue_position"] for status in statuses] == [0, 1]
    assert statuses[1]["seconds_left"] > statuses[0]["seconds_left"] > 0
    assert "ready: none" in problem(service.client.get(f"/jobs/{jobs[0]['id']}/images/0"), 404)
    go.set()
    assert ended(service, jobs[1]["id"]).state == "succeeded"


def test_a_cancelled_job_ends_within_a_step_and_is_forgotten(
    service: Service, paced: tuple[threading.Event, threading.Event, type[Any]]
) -> None:
    go, started, _ = paced
    job = service.client.post("/jobs", json=REQUEST | {"steps": 50}).json()["id"]
    assert started.wait(20)
    order = service.jobs()[job]
    assert service.client.delete(f"/jobs/{job}").status_code == 204
    problem(service.client.get(f"/jobs/{job}"), 404)
    go.set()
    service.wait(lambda: service.engine.admission.admitted == 0)
    assert order.state == "cancelled"
    assert order.status().completed_steps <= 2


def test_a_failed_job_has_a_problem(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:

    make_noise_non_finite(monkeypatch)
    job = service.client.post("/jobs", json=REQUEST).json()["id"]
    status = ended(service, job)
    assert (status.state, status.problem.status) == ("failed", 500)
    assert "NaN or infinity" in status.problem.detail


def test_a_job_is_its_senders_alone(service: Service, token_file: Path) -> None:
    with token_file.open("a") as lines:
        lines.write(f"ida admin {hashlib.sha256(b'ida-s token').hexdigest()}\n")
    job = service.client.post("/jobs", json=REQUEST).json()["id"]
    other = {"Authorization": "Bearer ida-s token"}
    for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/images/0"), ("DELETE", "")):
        problem(service.client.request(method, f"/jobs/{job}{path}", headers=other), 404)
    assert ended(service, job).state == "succeeded"


def test_the_same_key_is_the_same_job(service: Service) -> None:
    first, again = (service.client.post("/jobs", json=REQUEST, headers={"Idempotency-Key": "k"}).json()["id"] for _ in range(2))
    assert first == again
    # the key of a job is not one of an image
    problem(service.client.post("/generate", json=REQUEST, headers={"Idempotency-Key": "k"}), 422)


def test_a_key_survives_a_disconnect_and_is_free_after_a_failure() -> None:
    """While a version is loading: the client disconnects, sends the same request again, and then loading fails."""
    fail, selections = asyncio.Event(), []

    async def select(request: GenerateRequest) -> None:
        selections.append(request)
        await fail.wait()
        raise UnknownVersionError("no such version")

    service = service_module.GenerationService(
        model="sketches",
        engine=SimpleNamespace(admit=lambda images: nullcontext()),  # type: ignore[arg-type]
        tracker=None,
        selector=SimpleNamespace(select=select),  # type: ignore[arg-type]
        rules=None,
        jobs=JobStore(retention_s=60, retention_bytes=0),
        webhooks=None,
        metrics=None,
    )
    request, options = GenerateRequest.model_validate(REQUEST), SubmitOptions("rita", key="k")

    async def scenario() -> None:
        first = asyncio.create_task(service.submit(request, options))
        while not selections:
            await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        again = asyncio.create_task(service.submit(request, options))
        await asyncio.sleep(0.05)
        assert len(selections) == 1
        fail.set()
        with pytest.raises(UnknownVersionError):
            await again
        with pytest.raises(UnknownVersionError):
            await service.submit(request, options)
        assert len(selections) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("settings", [{"job_retention_s": 0}, {"job_retention_mib": 0}])
def test_jobs_are_forgotten(
    make_service: Callable[..., Service], store: FakeStore, adapter: tuple[Path, AdapterManifest], settings: dict[str, int]
) -> None:
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    service = make_service(**settings)
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    job = service.client.post("/jobs", json=REQUEST).json()["id"]
    service.wait(lambda: service.client.get(f"/jobs/{job}").status_code == 404)


def test_a_full_queue_refuses_jobs_too(
    make_service: Callable[..., Service],
    store: FakeStore,
    adapter: tuple[Path, AdapterManifest],
    paced: tuple[threading.Event, threading.Event, type[Any]],
) -> None:
    go, _, _ = paced
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    service = make_service(queue_limit=1)
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    jobs = [service.client.post("/jobs", json=REQUEST).json()["id"] for _ in range(2)]
    refused = service.client.post("/jobs", json=REQUEST)
    assert int(refused.headers["retry-after"]) >= 1
    problem(refused, 429)
    go.set()
    assert {ended(service, job).state for job in jobs} == {"succeeded"}


def test_a_broken_request_is_refused_at_once(service: Service) -> None:
    assert "nearest valid" in problem(service.client.post("/jobs", json=REQUEST | {"width": 33}), 422)


def test_a_stream_ends_when_its_token_is_revoked(
    service: Service, paced: tuple[threading.Event, threading.Event, type[Any]], token_file: Path
) -> None:
    """The job goes on; who may not come in any more hears nothing more of it."""
    go, started, _ = paced
    job = service.client.post("/jobs", json=REQUEST).json()["id"]
    assert started.wait(20)
    with service.client.stream("GET", f"/jobs/{job}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: status"
        token_file.write_text("")
        assert "event: end" not in list(lines)
    go.set()
