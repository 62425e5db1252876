"""/jobs: progress, previews, cancellation, keeping."""

import asyncio
import base64
import hashlib
import io
import json
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from atelier_contracts.generate import GenerateRequest, JobStatus
from atelier_infer.engine import denoising_state
from atelier_infer.errors import UnknownVersionError
from atelier_infer.generation import service as desk
from PIL import Image

from .test_generate import problem

WISH = {"prompt": "a cat", "steps": 4, "seed": 7}


def events(service, job: str, **query) -> list[tuple[str, dict]]:
    found = []
    with service.client.stream("GET", f"/jobs/{job}/events", params=query) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for block in "".join(stream.iter_text()).split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if lines:
                found.append((lines["event"], json.loads(lines["data"])))
    return found


def ended(service, job: str) -> JobStatus:
    def status() -> JobStatus:
        return JobStatus.model_validate_json(service.client.get(f"/jobs/{job}").content)

    service.wait(lambda: status().state not in ("waiting", "drawing"))
    return status()


def test_a_job_from_its_order_to_its_images(service):
    answer = service.client.post("/jobs", json=WISH | {"n": 2})
    assert answer.status_code == 202
    job = answer.json()["id"]
    assert answer.headers["location"] == f"/jobs/{job}"
    status = ended(service, job)
    assert (status.state, status.step, status.steps, status.position, status.seconds_left) == ("done", 8, 8, None, None)
    assert [one.seed for one in status.drawn] == [7, 8]
    assert status.images == [f"/jobs/{job}/images/0", f"/jobs/{job}/images/1"]
    png = service.client.get(status.images[1])
    assert png.headers["x-atelier-seed"] == "8"
    assert Image.open(io.BytesIO(png.content)).size == (32, 32)
    webp = service.client.get(status.images[1], headers={"Accept": "image/webp"})
    assert Image.open(io.BytesIO(webp.content)).format == "WEBP"


def test_events_tell_every_step_with_previews(service, paced):
    go, started, slow = paced
    slow.pause_s = 0.2  # a preview is decoded while the next steps are taken
    job = service.client.post("/jobs", json=WISH | {"steps": 15}).json()["id"]
    assert started.wait(20)
    found = []
    reader = threading.Thread(target=lambda: found.extend(events(service, job)))
    reader.start()
    order = next(iter(service.kept().values()))
    service.wait(lambda: order._watchers)
    go.set()
    reader.join()
    kinds = [name for name, _ in found]
    assert kinds[0] == "status"
    assert found[0][1]["state"] == "drawing"
    assert [data["step"] for name, data in found if name == "step"] == list(range(1, 16))
    preview = next(data for name, data in found if name == "preview")
    assert Image.open(io.BytesIO(base64.b64decode(preview["webp"]))).format == "WEBP"
    assert kinds[-2:] == ["image", "end"]
    assert found[-1][1]["state"] == "done"
    assert [name for name, _ in events(service, job)] == ["status", "end"]  # read again after the end


def test_without_previews_there_are_none(service, paced):
    go, started, _ = paced
    job = service.client.post("/jobs", json=WISH).json()["id"]
    assert started.wait(20)
    found = []
    reader = threading.Thread(target=lambda: found.extend(events(service, job, previews="false")))
    reader.start()
    service.wait(lambda: next(iter(service.kept().values()))._watchers)
    go.set()
    reader.join()
    assert "preview" not in {name for name, _ in found}


def test_position_and_time_left(service, paced):
    go, started, _ = paced
    jobs = [service.client.post("/jobs", json=WISH | {"width": width}).json() for width in (32, 48)]
    assert started.wait(20)
    statuses = [service.client.get(f"/jobs/{job['id']}").json() for job in jobs]
    assert [status["position"] for status in statuses] == [0, 1]
    assert statuses[1]["seconds_left"] > statuses[0]["seconds_left"] > 0
    assert "ready: none" in problem(service.client.get(f"/jobs/{jobs[0]['id']}/images/0"), 404)
    go.set()
    assert ended(service, jobs[1]["id"]).state == "done"


def test_a_cancelled_job_ends_within_a_step_and_is_forgotten(service, paced):
    go, started, _ = paced
    job = service.client.post("/jobs", json=WISH | {"steps": 50}).json()["id"]
    assert started.wait(20)
    order = service.kept()[job]
    assert service.client.delete(f"/jobs/{job}").status_code == 204
    problem(service.client.get(f"/jobs/{job}"), 404)
    go.set()
    service.wait(lambda: service.engine.admitted == 0)
    assert order.state == "cancelled"
    assert order.status().step <= 2


def test_a_job_that_fails_says_why(service, monkeypatch):
    import numpy as np

    monkeypatch.setattr(denoising_state, "initial_noise", lambda *_: np.full((1, 4, 4, 4), np.nan, np.float32))
    job = service.client.post("/jobs", json=WISH).json()["id"]
    status = ended(service, job)
    assert (status.state, status.problem.status) == ("failed", 500)
    assert "NaN or infinity" in status.problem.detail


def test_a_job_is_its_senders_alone(service, token_file):
    with token_file.open("a") as lines:
        lines.write(f"ida admin {hashlib.sha256(b'ida-s token').hexdigest()}\n")
    job = service.client.post("/jobs", json=WISH).json()["id"]
    other = {"Authorization": "Bearer ida-s token"}
    for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/images/0"), ("DELETE", "")):
        problem(service.client.request(method, f"/jobs/{job}{path}", headers=other), 404)
    assert ended(service, job).state == "done"


def test_the_same_key_is_the_same_job(service):
    first, again = (service.client.post("/jobs", json=WISH, headers={"Idempotency-Key": "k"}).json()["id"] for _ in range(2))
    assert first == again
    # the key of a job is not one of an image
    problem(service.client.post("/generate", json=WISH, headers={"Idempotency-Key": "k"}), 422)


def test_a_key_outlives_who_waited_first_and_is_free_after_a_failure():
    """While a version is being looked for: its sender goes away, the same request comes again, then it fails."""
    found, asked = threading.Event(), []

    def find(wish):
        asked.append(wish)
        assert found.wait(20)
        raise UnknownVersionError("no such version")

    chooser = SimpleNamespace(cached=lambda wish: None, find=find)
    engine = SimpleNamespace(admit=lambda images: nullcontext())
    counter = desk.GenerationService(
        engine=engine, versions=None, chooser=chooser, metrics=None, settings=None, callbacks=None, memory=None
    )
    wish = GenerateRequest.model_validate(WISH)

    async def story():
        first = asyncio.create_task(counter.place(wish, "rita", key="k"))
        while not asked:
            await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        again = asyncio.create_task(counter.place(wish, "rita", key="k"))
        await asyncio.sleep(0.05)
        assert len(asked) == 1
        found.set()
        with pytest.raises(UnknownVersionError):
            await again
        with pytest.raises(UnknownVersionError):
            await counter.place(wish, "rita", key="k")
        assert len(asked) == 2

    asyncio.run(story())


@pytest.mark.parametrize("settings", [{"job_keep_s": 0}, {"job_keep_mib": 0}])
def test_jobs_are_forgotten(make_service, store, adapter, settings):
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    service = make_service(**settings)
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    job = service.client.post("/jobs", json=WISH).json()["id"]
    service.wait(lambda: service.client.get(f"/jobs/{job}").status_code == 404)


def test_a_full_queue_refuses_jobs_too(make_service, store, adapter, paced):
    go, _, _ = paced
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    service = make_service(queue_limit=1)
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    jobs = [service.client.post("/jobs", json=WISH).json()["id"] for _ in range(2)]
    refused = service.client.post("/jobs", json=WISH)
    assert int(refused.headers["retry-after"]) >= 1
    problem(refused, 429)
    go.set()
    assert {ended(service, job).state for job in jobs} == {"done"}


def test_a_broken_request_is_refused_at_once(service):
    assert "nearest legal" in problem(service.client.post("/jobs", json=WISH | {"width": 33}), 422)


def test_a_stream_ends_when_its_token_is_revoked(service, paced, token_file):
    """The job goes on; who may not come in any more hears nothing more of it."""
    go, started, _ = paced
    job = service.client.post("/jobs", json=WISH).json()["id"]
    assert started.wait(20)
    with service.client.stream("GET", f"/jobs/{job}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: status"
        token_file.write_text("")
        assert "event: end" not in list(lines)
    go.set()
