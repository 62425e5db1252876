"""Webhooks: sent when a job has ended, signed, retried until they are accepted, to allowed hosts only."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from atelier_contracts.generate import JobStatus
from atelier_contracts.manifests import AdapterManifest
from atelier_infer.app import Timings
from atelier_infer.client import read_webhook
from atelier_infer.generation import webhooks
from atelier_infer.generation.webhooks import WebhookLimits

from ...servers import free_port
from ..conftest import Service
from ..fake_store import FakeStore
from ..support import REQUEST, ended, make_noise_non_finite, problem
from ..webhook_receiver import SIGNING, Receiver, self_signed

QUICK = Timings(webhooks=WebhookLimits(first_retry_s=0.01, max_retry_s=0.02))


@pytest.fixture
def make_sending_service(
    make_service: Callable[..., Service], store: FakeStore, adapter: tuple[Path, AdapterManifest], tmp_path: Path
) -> Callable[..., Service]:
    """A factory: a service that may send webhooks to the given receivers."""

    def make(*hosts: str, **settings: Any) -> Service:
        (tmp_path / "secret").write_text(SIGNING + "\n")
        store.set_alias("champion", store.publish_adapter(adapter[0]))
        service = make_service(
            webhook_hosts=",".join(hosts) or None,
            webhook_secret_file=tmp_path / "secret" if hosts else None,
            **settings,
        )
        service.wait(lambda: service.client.get("/readyz").status_code == 200)
        return service

    return make


def order(service: Service, url: str, **changes: Any) -> str:
    answer = service.client.post("/jobs", json=REQUEST | {"webhook_url": url} | changes)
    assert answer.status_code == 202, answer.text
    assert answer.json()["webhook"] == {"state": "pending", "attempts": 0, "last_error": None}
    return answer.json()["id"]


def settled(service: Service, job: str) -> dict[str, Any]:
    """The status of its webhook once it is final."""

    def webhook() -> dict[str, Any]:
        return service.client.get(f"/jobs/{job}").json()["webhook"]

    service.wait(lambda: webhook()["state"] != "pending")
    return webhook()


# end to end


def test_a_finished_job_sends_its_status_and_the_receiver_can_verify_it(
    make_sending_service: Callable[..., Service], receiver: Receiver
) -> None:
    service = make_sending_service(f"http://{receiver.place}")
    job = order(service, f"http://{receiver.place}/drawn?order=17")
    assert settled(service, job) == {"state": "delivered", "attempts": 1, "last_error": None}
    ((headers, body),) = receiver.came
    assert (headers["path"], headers["Content-Type"], headers["webhook-id"]) == (
        "/drawn?order=17",
        "application/json",
        f"msg_{job}",
    )
    sent = JobStatus.model_validate(read_webhook(SIGNING, headers, body))
    now = JobStatus.model_validate_json(service.client.get(f"/jobs/{job}").content)
    assert (sent.state, sent.id, len(sent.images), sent.webhook.state) == ("succeeded", job, 1, "pending")
    assert sent == now.model_copy(update={"webhook": sent.webhook})
    assert service.count("webhooks_total", outcome="delivered") == 1
    assert service.count("webhooks_pending") == 0


def test_failed_and_cancelled_jobs_send_their_status_too(
    make_sending_service: Callable[..., Service],
    receiver: Receiver,
    paced: tuple[threading.Event, threading.Event, type[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go, started, _ = paced
    service = make_sending_service(f"http://{receiver.place}")
    job = order(service, f"http://{receiver.place}", steps=50)
    assert started.wait(20)
    assert service.client.delete(f"/jobs/{job}").status_code == 204
    go.set()
    service.wait(lambda: receiver.came)
    found = read_webhook(SIGNING, *receiver.came[0])
    assert (found["state"], found["id"]) == ("cancelled", job)
    make_noise_non_finite(monkeypatch)
    job = order(service, f"http://{receiver.place}")
    service.wait(lambda: len(receiver.came) == 2)
    found = read_webhook(SIGNING, *receiver.came[1])
    assert (found["state"], found["id"], found["problem"]["status"]) == ("failed", job, 500)
    assert receiver.came[0][0]["path"] == "/"


def test_one_idempotency_key_sends_one_webhook(make_sending_service: Callable[..., Service], receiver: Receiver) -> None:
    service = make_sending_service(f"http://{receiver.place}")
    url = f"http://{receiver.place}/a"
    fields, key = REQUEST | {"webhook_url": url}, {"Idempotency-Key": "k"}
    jobs = {service.client.post("/jobs", json=fields, headers=key).json()["id"] for _ in range(3)}
    assert len(jobs) == 1
    assert settled(service, jobs.pop())["state"] == "delivered"
    assert len(receiver.came) == 1
    other = service.client.post("/jobs", json=fields | {"webhook_url": url + "b"}, headers=key)
    assert "another request" in problem(other, 422)


def test_a_job_without_a_webhook_has_no_webhook_status(
    make_sending_service: Callable[..., Service], receiver: Receiver
) -> None:
    service = make_sending_service(f"http://{receiver.place}")
    job = service.client.post("/jobs", json=REQUEST).json()["id"]
    assert ended(service, job).webhook is None
    assert receiver.came == []


def test_only_jobs_accept_a_webhook_url(service: Service) -> None:
    assert "webhook_url is not a field" in problem(service.generate(webhook_url="https://a.example"), 422)


# attempts


def test_retries_have_the_same_id_until_one_is_accepted(
    make_sending_service: Callable[..., Service], receiver: Receiver
) -> None:
    receiver.answers = [(500, {}), (429, {"Retry-After": "0"}), (503, {"Retry-After": "soon"}), (200, {})]
    service = make_sending_service(f"http://{receiver.place}", timings=QUICK)
    job = order(service, f"http://{receiver.place}")
    assert settled(service, job) == {"state": "delivered", "attempts": 4, "last_error": None}
    assert len({headers["webhook-id"] for headers, _ in receiver.came}) == 1
    assert len({body for _, body in receiver.came}) == 1
    for headers, body in receiver.came:
        assert read_webhook(SIGNING, headers, body)["id"] == job


def test_it_fails_after_the_last_attempt(make_sending_service: Callable[..., Service], receiver: Receiver) -> None:
    receiver.answers = [(502, {})]
    service = make_sending_service(f"http://{receiver.place}", timings=QUICK)
    job = order(service, f"http://{receiver.place}")
    assert settled(service, job) == {"state": "failed", "attempts": webhooks.MAX_ATTEMPTS, "last_error": "answered 502"}
    assert len(receiver.came) == webhooks.MAX_ATTEMPTS
    assert ended(service, job).state == "succeeded"  # the images are there all the same
    assert service.count("webhooks_total", outcome="failed") == 1


def test_a_receiver_that_is_down_is_reported(make_sending_service: Callable[..., Service]) -> None:
    place = f"127.0.0.1:{free_port()}"
    service = make_sending_service(f"http://{place}", timings=QUICK)
    found = settled(service, order(service, f"http://{place}"))
    assert (found["state"], found["attempts"]) == ("failed", webhooks.MAX_ATTEMPTS)
    assert "Connection refused" in found["last_error"]


def test_a_silent_receiver_does_not_delay_images(make_sending_service: Callable[..., Service], receiver: Receiver) -> None:
    receiver.hold.clear()
    limits = WebhookLimits(first_retry_s=0.01, max_retry_s=0.02, timeout_s=0.2)
    service = make_sending_service(f"http://{receiver.place}", timings=Timings(webhooks=limits))
    jobs = [order(service, f"http://{receiver.place}") for _ in range(webhooks.THREADS + 1)]
    service.wait(lambda: len(receiver.came) >= webhooks.THREADS)
    assert service.generate().status_code == 200
    receiver.hold.set()
    assert {settled(service, job)["state"] for job in jobs} == {"delivered"}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(make_sending_service: Callable[..., Service], receiver: Receiver, status: int) -> None:
    with Receiver() as elsewhere:
        receiver.answers = [(status, {"Location": f"http://{elsewhere.place}/"})]
        service = make_sending_service(f"http://{receiver.place}", f"http://{elsewhere.place}")
        found = settled(service, order(service, f"http://{receiver.place}"))
        assert found == {"state": "failed", "attempts": 1, "last_error": f"answered {status}; redirects are not followed"}
        assert elsewhere.came == []


@pytest.mark.parametrize("status", [400, 404, 410])
def test_other_statuses_are_not_retried(make_sending_service: Callable[..., Service], receiver: Receiver, status: int) -> None:
    receiver.answers = [(status, {})]
    service = make_sending_service(f"http://{receiver.place}")
    found = settled(service, order(service, f"http://{receiver.place}"))
    assert found == {"state": "failed", "attempts": 1, "last_error": f"answered {status}"}


def test_a_host_that_is_not_allowed_is_refused_at_once(
    make_sending_service: Callable[..., Service], receiver: Receiver, service: Service
) -> None:
    with Receiver() as elsewhere:
        strict = make_sending_service(f"http://{receiver.place}")
        for url, words in (
            (f"http://{elsewhere.place}/", "ATELIER_INFER_WEBHOOK_HOSTS lists"),
            (f"https://{receiver.place}/", "with its scheme and port"),
            (f"http://rita:pa55@{receiver.place}/", "a URL with an @ in it"),
            ("https://a.example/" + "a" * 2000, "2000"),
        ):
            reported = problem(strict.client.post("/jobs", json=REQUEST | {"webhook_url": url}), 422)
            assert words in reported
            assert "pa55" not in reported
        # by default nothing is listed
        unlisted = service.client.post("/jobs", json=REQUEST | {"webhook_url": f"http://{receiver.place}/"})
        assert "lists" in problem(unlisted, 422)
        assert (strict.jobs(), receiver.came, elsewhere.came) == ({}, [], [])


def test_over_https_the_certificate_is_checked(
    make_sending_service: Callable[..., Service], receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with Receiver(tls=tls) as secure:
        service = make_sending_service(secure.place, timings=QUICK)
        found = settled(service, order(service, f"https://{secure.place}/"))
        assert (found["state"], secure.came) == ("failed", [])
        assert "certificate verify failed" in found["last_error"]
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        job = order(service, f"https://{secure.place}/")
        assert settled(service, job)["state"] == "delivered"
        assert read_webhook(SIGNING, *secure.came[0])["id"] == job


# shutdown


def test_jobs_ended_by_the_shutdown_send_their_status(
    make_sending_service: Callable[..., Service], receiver: Receiver, paced: tuple[threading.Event, threading.Event, type[Any]]
) -> None:
    go, started, _ = paced
    service = make_sending_service(f"http://{receiver.place}", drain_timeout_s=0)
    job = order(service, f"http://{receiver.place}", steps=50)
    assert started.wait(20)
    service.engine.drain()
    go.set()
    service.wait(lambda: receiver.came)
    found = read_webhook(SIGNING, *receiver.came[0])
    assert (found["id"], found["state"], found["problem"]["status"]) == (job, "failed", 503)
