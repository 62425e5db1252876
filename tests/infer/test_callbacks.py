"""Callbacks: posted once a job has ended, signed, again until they arrive, to listed hosts alone."""

import ssl
import time

import numpy as np
import pytest
from atelier_contracts.generate import JobStatus
from atelier_infer.client import callback_key, read_callback
from atelier_infer.engine import denoising_state
from atelier_infer.generation import webhooks
from atelier_infer.generation.webhook_hosts import Place, WebhookTarget, parse_hosts
from atelier_infer.generation.webhooks import Webhook, WebhookSender, backoff_s
from hypothesis import given
from hypothesis import strategies as st

from ..servers import free_port
from .conftest import wait
from .receiver import SIGNING, Receiver, self_signed
from .test_generate import problem
from .test_jobs import WISH, ended


@pytest.fixture
def receiver():
    with Receiver() as made:
        yield made


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(webhooks, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(webhooks, "SLOWEST_RETRY_S", 0.02)


@pytest.fixture
def calling(make_service, store, adapter, tmp_path):
    """A factory: a service that may call the receivers given."""

    def make(*hosts: str, **settings):
        (tmp_path / "secret").write_text(SIGNING + "\n")
        store.set_alias("champion", store.publish_adapter(adapter[0]))
        service = make_service(
            callback_hosts=",".join(hosts) or None,
            callback_secret_file=tmp_path / "secret" if hosts else None,
            **settings,
        )
        service.wait(lambda: service.client.get("/readyz").status_code == 200)
        return service

    return make


def order(service, url: str, **changes) -> str:
    answer = service.client.post("/jobs", json=WISH | {"callback_url": url} | changes)
    assert answer.status_code == 202, answer.text
    assert answer.json()["callback"] == {"state": "waiting", "tries": 0, "problem": None}
    return answer.json()["id"]


def settled(service, job: str) -> dict:
    """What became of its callback."""

    def callback() -> dict:
        return service.client.get(f"/jobs/{job}").json()["callback"]

    service.wait(lambda: callback()["state"] != "waiting")
    return callback()


# the whole way


def test_a_finished_job_is_told_of_and_the_receiver_can_verify_it(calling, receiver):
    service = calling(f"http://{receiver.place}")
    job = order(service, f"http://{receiver.place}/drawn?order=17")
    assert settled(service, job) == {"state": "delivered", "tries": 1, "problem": None}
    ((headers, body),) = receiver.came
    assert (headers["path"], headers["Content-Type"], headers["webhook-id"]) == (
        "/drawn?order=17",
        "application/json",
        f"msg_{job}",
    )
    told = JobStatus.model_validate(read_callback(SIGNING, headers, body))
    now = JobStatus.model_validate_json(service.client.get(f"/jobs/{job}").content)
    assert (told.state, told.id, len(told.images), told.callback.state) == ("done", job, 1, "waiting")
    assert told == now.model_copy(update={"callback": told.callback})
    assert service.count("callbacks_total", outcome="delivered") == 1
    assert service.count("callbacks_waiting") == 0


def test_a_job_that_failed_and_one_that_was_cancelled_are_told_of_too(calling, receiver, paced, monkeypatch):
    go, started, _ = paced
    service = calling(f"http://{receiver.place}")
    job = order(service, f"http://{receiver.place}", steps=50)
    assert started.wait(20)
    assert service.client.delete(f"/jobs/{job}").status_code == 204
    go.set()
    service.wait(lambda: receiver.came)
    found = read_callback(SIGNING, *receiver.came[0])
    assert (found["state"], found["id"]) == ("cancelled", job)
    monkeypatch.setattr(denoising_state, "initial_noise", lambda *_: np.full((1, 4, 4, 4), np.nan, np.float32))
    job = order(service, f"http://{receiver.place}")
    service.wait(lambda: len(receiver.came) == 2)
    found = read_callback(SIGNING, *receiver.came[1])
    assert (found["state"], found["id"], found["problem"]["status"]) == ("failed", job, 500)
    assert receiver.came[0][0]["path"] == "/"


def test_the_same_key_is_one_callback(calling, receiver):
    service = calling(f"http://{receiver.place}")
    url = f"http://{receiver.place}/a"
    wish, key = WISH | {"callback_url": url}, {"Idempotency-Key": "k"}
    jobs = {service.client.post("/jobs", json=wish, headers=key).json()["id"] for _ in range(3)}
    assert len(jobs) == 1
    assert settled(service, jobs.pop())["state"] == "delivered"
    assert len(receiver.came) == 1
    other = service.client.post("/jobs", json=wish | {"callback_url": url + "b"}, headers=key)
    assert "another request" in problem(other, 422)


def test_a_job_without_one_says_nothing_of_it(calling, receiver):
    service = calling(f"http://{receiver.place}")
    job = service.client.post("/jobs", json=WISH).json()["id"]
    assert ended(service, job).callback is None
    assert receiver.came == []


def test_only_jobs_have_one(service):
    assert "callback_url is no field" in problem(service.draw(callback_url="https://a.example"), 422)


# tries


def test_it_is_tried_again_with_the_same_id_until_it_arrives(calling, receiver, quick):
    receiver.answers = [(500, {}), (429, {"Retry-After": "0"}), (503, {"Retry-After": "soon"}), (200, {})]
    service = calling(f"http://{receiver.place}")
    job = order(service, f"http://{receiver.place}")
    assert settled(service, job) == {"state": "delivered", "tries": 4, "problem": None}
    assert len({headers["webhook-id"] for headers, _ in receiver.came}) == 1
    assert len({body for _, body in receiver.came}) == 1
    for headers, body in receiver.came:
        assert read_callback(SIGNING, headers, body)["id"] == job


def test_it_is_given_up_after_so_many_tries(calling, receiver, quick):
    receiver.answers = [(502, {})]
    service = calling(f"http://{receiver.place}")
    job = order(service, f"http://{receiver.place}")
    assert settled(service, job) == {"state": "given_up", "tries": webhooks.TRIES, "problem": "answered 502"}
    assert len(receiver.came) == webhooks.TRIES
    assert ended(service, job).state == "done"  # the images are there all the same
    assert service.count("callbacks_total", outcome="given_up") == 1


def test_nobody_answers(calling, quick):
    place = f"127.0.0.1:{free_port()}"
    service = calling(f"http://{place}")
    found = settled(service, order(service, f"http://{place}"))
    assert (found["state"], found["tries"]) == ("given_up", webhooks.TRIES)
    assert "no answer: ConnectionRefusedError" in found["problem"]


def test_a_receiver_that_stays_silent_holds_up_no_drawing(calling, receiver, quick, monkeypatch):
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.2)
    receiver.hold.clear()
    service = calling(f"http://{receiver.place}")
    jobs = [order(service, f"http://{receiver.place}") for _ in range(webhooks.THREADS + 1)]
    service.wait(lambda: len(receiver.came) >= webhooks.THREADS)
    assert service.draw().status_code == 200
    receiver.hold.set()
    assert {settled(service, job)["state"] for job in jobs} == {"delivered"}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_refusal(calling, receiver, status):
    with Receiver() as elsewhere:
        receiver.answers = [(status, {"Location": f"http://{elsewhere.place}/"})]
        service = calling(f"http://{receiver.place}", f"http://{elsewhere.place}")
        found = settled(service, order(service, f"http://{receiver.place}"))
        assert found == {"state": "given_up", "tries": 1, "problem": f"answered {status}; a redirect is not followed"}
        assert elsewhere.came == []


@pytest.mark.parametrize("status", [400, 404, 410])
def test_other_answers_end_it_at_once(calling, receiver, status):
    receiver.answers = [(status, {})]
    service = calling(f"http://{receiver.place}")
    found = settled(service, order(service, f"http://{receiver.place}"))
    assert found == {"state": "given_up", "tries": 1, "problem": f"answered {status}"}


@given(tries=st.integers(1, 30))
def test_pauses_grow_to_a_limit_and_differ_by_chance(tries):
    longest = min(webhooks.SLOWEST_RETRY_S, webhooks.FIRST_RETRY_S * 4.0 ** (tries - 1))
    found = [backoff_s(tries) for _ in range(20)]
    assert all(longest / 2 <= pause <= longest for pause in found)
    assert len(set(found)) > 1


def test_a_host_that_is_not_listed_is_told_at_once(calling, receiver, service):
    with Receiver() as elsewhere:
        strict = calling(f"http://{receiver.place}")
        for url, words in (
            (f"http://{elsewhere.place}/", "ATELIER_INFER_CALLBACK_HOSTS lists"),
            (f"https://{receiver.place}/", "with its scheme and port"),
            (f"http://rita:pa55@{receiver.place}/", "an address with an @ in it"),
            ("https://a.example/" + "a" * 2000, "2000"),
        ):
            told = problem(strict.client.post("/jobs", json=WISH | {"callback_url": url}), 422)
            assert words in told
            assert "pa55" not in told
        # by default nothing is listed
        unlisted = service.client.post("/jobs", json=WISH | {"callback_url": f"http://{receiver.place}/"})
        assert "lists" in problem(unlisted, 422)
        assert (strict.kept(), receiver.came, elsewhere.came) == ({}, [], [])


def test_over_https_the_certificate_is_checked(calling, receiver, quick, tmp_path, monkeypatch):
    certificate = self_signed(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with Receiver(tls=tls) as secure:
        service = calling(secure.place)
        found = settled(service, order(service, f"https://{secure.place}/"))
        assert (found["state"], secure.came) == ("given_up", [])
        assert "certificate verify failed" in found["problem"]
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        job = order(service, f"https://{secure.place}/")
        assert settled(service, job)["state"] == "delivered"
        assert read_callback(SIGNING, *secure.came[0])["id"] == job


# the end of the service


def callback(place: str) -> Webhook:
    return Webhook(WebhookTarget(Place("http", *_split(place)), "/", f"http://{place}/"), "msg_1")


def _split(place: str) -> tuple[str, int]:
    host, _, port = place.partition(":")
    return host, int(port)


def sender(place: str, outcomes: list[str]) -> WebhookSender:
    return WebhookSender(hosts=parse_hosts(f"http://{place}"), key=callback_key(SIGNING), told=outcomes.append)


def test_at_the_end_what_waits_for_another_try_gets_a_last_one_at_once(receiver):
    receiver.answers = [(503, {"Retry-After": "200"}), (503, {"Retry-After": "200"}), (204, {})]
    outcomes: list[str] = []
    made = sender(receiver.place, outcomes)
    made.start()
    one, other = callback(receiver.place), callback(receiver.place)
    for sent in (one, other):
        made.send(sent, b"{}")
    wait(lambda: made.waiting == 2 and one.tries == other.tries == 1)
    made.stop(time.monotonic() + 20)
    assert (one.state, other.state, one.tries, other.tries) == ("delivered", "delivered", 2, 2)
    assert outcomes == ["delivered"] * 2
    assert not any(thread.is_alive() for thread in made._threads)


def test_a_last_try_that_fails_is_given_up(receiver):
    receiver.answers = [(503, {})]
    made = sender(receiver.place, [])
    made.start()
    sent = callback(receiver.place)
    made.send(sent, b"{}")
    wait(lambda: made.waiting == 1 and sent.tries == 1)
    made.stop(time.monotonic() + 20)
    assert (sent.state, sent.tries, sent.problem) == ("given_up", 2, "answered 503")


def test_a_silent_receiver_does_not_hold_up_the_end(receiver, monkeypatch):
    monkeypatch.setattr(webhooks, "LAST_TRY_S", 0.2)
    receiver.hold.clear()
    made = sender(receiver.place, [])
    made.start()
    sent = [callback(receiver.place) for _ in range(webhooks.THREADS + 3)]
    for one in sent:
        made.send(one, b"{}")
    wait(lambda: len(receiver.came) == webhooks.THREADS)
    made.stop(time.monotonic())  # returns although every thread hangs
    assert [one.problem for one in sent if one.tries == 0] == ["the service ended"] * 3


def test_jobs_that_the_end_of_the_service_ends_are_told_of(calling, receiver, paced):
    go, started, _ = paced
    service = calling(f"http://{receiver.place}", drain_timeout_s=0)
    job = order(service, f"http://{receiver.place}", steps=50)
    assert started.wait(20)
    service.engine.drain()
    go.set()
    service.wait(lambda: receiver.came)
    found = read_callback(SIGNING, *receiver.came[0])
    assert (found["id"], found["state"], found["problem"]["status"]) == (job, "failed", 503)


def test_more_than_may_wait_are_given_up_at_once(receiver, monkeypatch):
    monkeypatch.setattr(webhooks, "LIMIT", 2)
    made = sender(receiver.place, [])  # not started: nothing leaves the queue
    sent = [callback(receiver.place) for _ in range(3)]
    for one in sent:
        made.send(one, b"{}")
    assert [one.state for one in sent] == ["waiting", "waiting", "given_up"]
    assert sent[2].problem == "2 callbacks wait already"


def test_an_error_that_nobody_foresaw_leaves_the_threads(receiver, monkeypatch):
    made = sender(receiver.place, [])
    with monkeypatch.context() as patch:
        patch.setattr(WebhookSender, "_post", lambda *_: 1 / 0)
        made.start()
        sent = [callback(receiver.place) for _ in range(webhooks.THREADS + 1)]
        for one in sent:
            made.send(one, b"{}")
        wait(lambda: all(one.state == "given_up" for one in sent))
    made.send(last := callback(receiver.place), b"{}")
    wait(lambda: last.state == "delivered")
    made.stop(time.monotonic())
