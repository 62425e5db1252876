"""Events posted to subscribers: signed, in order, again after a refusal, by one process, and nothing lost over a restart."""

import base64
import hashlib
import hmac
import json
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from atelier_registry.config.subscribers import Subscriber
from atelier_registry.events.webhooks import dispatcher
from atelier_registry.events.webhooks.delivery import sign
from atelier_registry.events.webhooks.dispatcher import WebhookDispatcher, wait_s
from atelier_registry.events.webhooks.offsets import WebhookOffsets
from atelier_registry.storage.ledger import Facts

from .receiver import receiving
from .test_problems import problem

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


@pytest.fixture
def receiver():
    with receiving() as made:
        yield made


@pytest.fixture
def subscriber(tmp_path, receiver):
    """A factory: fields by keyword."""

    def made(**fields):
        file = tmp_path / "secret"
        file.write_text(f"{SECRET}\n")
        return Subscriber.model_validate({"name": "ci", "url": receiver.url, "secret_file": file} | fields)

    return made


@pytest.fixture
def places(engine):
    return WebhookOffsets(engine)


@pytest.fixture
def pushed(ledger, places, locks):
    """A factory of what posts, not started: `deliver` is called by the test."""

    def made(*subscribers):
        push = WebhookDispatcher(subscribers, ledger, places, locks)
        for each in subscribers:
            push.deliver(each)  # enters it, after the newest event
        return push

    return made


@pytest.fixture
def move(ledger):
    """Writes an event."""

    def moved(number, model="pencil", alias="champion"):
        ledger.open("outside", Facts("outside", "outside", model, alias, None, number, "moved"))

    return moved


def until(true):
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_signature_of_the_standards_own_library():
    """Made with standardwebhooks 1.1.0 for Python."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_promotion_is_posted_signed(start, fake, adapters, ledger, places, locks, subscriber, receiver):
    push = WebhookDispatcher([subscriber()], ledger, places, locks)
    api = start(fake, push=push)
    until(lambda: places.find("ci"))
    decision = api.promote(adapters, 3).json()
    until(lambda: receiver.got)
    [(headers, body)] = receiver.got
    told = json.loads(body)
    assert told["type"] == "alias.moved"
    wanted = {"model": adapters, "alias": "champion", "from_version": None, "to_version": 3, "decision": decision["id"]}
    assert wanted.items() <= told["data"].items()
    assert headers["webhook-id"] == f"event-{told['data']['id']}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    assert headers["webhook-signature"] == "v1," + base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    until(lambda: places.find("ci").taken_at)
    [state] = api.as_("ada").get("/subscribers").json()["subscribers"]
    assert (state["name"], state["waiting"], state["tries"], state["problem"]) == ("ci", 0, 0, None)
    assert "hidden" not in json.dumps(state)


def test_a_new_subscriber_begins_with_what_comes(pushed, move, subscriber, receiver, places):
    move(1)
    ci = subscriber()
    push = pushed(ci)
    move(2)
    push.deliver(ci)
    assert [event["to_version"] for event in receiver.events()] == [2]
    assert places.find("ci").event == 2


def test_only_what_is_wanted_is_posted(pushed, move, subscriber, receiver, places):
    ci = subscriber(models=["pencil"], aliases=["champion"])
    push = pushed(ci)
    move(1, "ink")
    move(2)
    move(3, alias="rival")
    move(4)
    push.deliver(ci)
    assert [event["to_version"] for event in receiver.events()] == [2, 4]
    assert places.find("ci").event == 4


@pytest.mark.parametrize(
    ("answer", "reason"),
    [((500, {}), "answered 500"), ((301, {"Location": "http://127.0.0.1:1/"}), "answered 301; redirects are not followed")],
)
def test_what_is_refused_is_posted_again_in_order(
    pushed, move, subscriber, receiver, places, monkeypatch, caplog, answer, reason
):
    monkeypatch.setattr(dispatcher, "FIRST_WAIT_S", 0.2)
    ci = subscriber()
    push = pushed(ci)
    receiver.answers = [answer, answer, (204, {})]
    move(1)
    move(2)
    push.deliver(ci)
    push.deliver(ci)  # too early: nothing is posted
    assert len(receiver.got) == 1
    place = places.find("ci")
    assert (place.event, place.tries, place.problem) == (0, 1, reason)
    assert place.refused_since < place.next_try
    until(lambda: push.deliver(ci) or places.find("ci").event == 2)
    assert [event["to_version"] for event in receiver.events()] == [1, 1, 1, 2]
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 2
    assert (places.find("ci").tries, places.find("ci").problem, places.find("ci").refused_since) == (0, None, None)
    assert caplog.text.count("events wait for subscriber ci") == 1


def test_retry_after_is_kept_to(pushed, move, subscriber, receiver, places):
    ci = subscriber()
    push = pushed(ci)
    receiver.answers = [(429, {"Retry-After": "1800"})]
    move(1)
    push.deliver(ci)
    assert places.find("ci").next_try > datetime.now(UTC) + timedelta(seconds=1700)


def test_nobody_answers(pushed, move, subscriber, places):
    ci = subscriber(url="http://127.0.0.1:1/hooks")
    push = pushed(ci)
    move(1)
    push.deliver(ci)
    assert places.find("ci").problem == "does not answer (ConnectionError)"


def test_a_secret_that_is_gone_or_wrong(pushed, move, subscriber, receiver, places):
    ci = subscriber()
    push = pushed(ci)
    ci.secret_file.write_text("whsec_AAAA")
    move(1)
    push.deliver(ci)
    assert receiver.got == []
    assert places.find("ci").problem.startswith("its secret_file must hold whsec_ and the base64 of 24 to 64")


def test_an_event_is_left_out_in_the_end(pushed, move, subscriber, receiver, places, monkeypatch, caplog):
    monkeypatch.setattr(dispatcher, "FIRST_WAIT_S", 0.01)
    ci = subscriber(give_up_h=1e-6)
    push = pushed(ci)
    receiver.answers = [(410, {}), (410, {}), (204, {})]
    move(1)
    move(2)
    until(lambda: push.deliver(ci) or places.find("ci").event == 2)
    assert [event["to_version"] for event in receiver.events()] == [1, 1, 2]
    assert "event 1 was not posted to subscriber ci, which answered 410" in caplog.text


def test_nothing_is_lost_over_a_restart(pushed, move, subscriber, receiver, places, monkeypatch):
    monkeypatch.setattr(dispatcher, "FIRST_WAIT_S", 0.01)
    ci = subscriber()
    receiver.answers = [(503, {}), (204, {})]
    push = pushed(ci)
    move(1)
    push.deliver(ci)
    move(2)
    later = pushed(ci)  # a new process
    until(lambda: later.deliver(ci) or places.find("ci").event == 2)
    assert [event["to_version"] for event in receiver.events()] == [1, 1, 2]


def test_processes_take_turns(pushed, move, subscriber, receiver, places):
    ci = subscriber()
    pushes = [pushed(ci) for _ in range(4)]
    for number in range(1, 21):
        move(number)
    threads = [threading.Thread(target=push.deliver, args=[ci]) for push in pushes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event["to_version"] for event in receiver.events()] == list(range(1, 21))
    assert receiver.most_busy == 1
    assert places.find("ci").event == 20


def test_one_that_hangs_holds_up_nobody_else(start, fake, adapters, ledger, places, locks, subscriber, receiver, monkeypatch):
    receiver.hold.clear()
    with receiving() as other:
        push = WebhookDispatcher([subscriber(), subscriber(name="page", url=other.url)], ledger, places, locks)
        api = start(fake, push=push)
        until(lambda: places.find("ci") and places.find("page"))
        assert api.promote(adapters, 1).status_code == 200
        until(lambda: other.got and receiver.busy)
        assert api.promote(adapters, 2).status_code == 200
        until(lambda: len(other.got) == 2)
        assert len(receiver.got) == 1
        begun = time.monotonic()
        push.stop(0.2)
        assert time.monotonic() - begun < 15  # and so does the end of the process: not for 20 s
        receiver.hold.set()


def test_pauses_grow(monkeypatch):
    for tries in range(0, 200, 7):
        assert 0.75 * min(2.0**tries, 3600) <= wait_s(tries, 0) <= min(2.0**tries, 3600)
    assert wait_s(0, 60) == 60
    assert wait_s(0, 10**9) == 3600
    assert len({wait_s(5, 0) for _ in range(20)}) > 1


def test_a_ping(start, fake, ledger, places, locks, subscriber, receiver):
    api = start(fake, push=WebhookDispatcher([subscriber()], ledger, places, locks))
    admin = api.as_("ada")
    assert admin.post("/subscribers/ci/ping", {}).json() == {"taken": True, "problem": None}
    assert json.loads(receiver.got[0][1])["type"] == "ping"
    receiver.answers = [(404, {})]
    assert admin.post("/subscribers/ci/ping", {}).json() == {"taken": False, "problem": "answered 404"}
    assert problem(admin.post("/subscribers/cd/ping", {}), 404) == "no subscriber is called 'cd'; there are: ci"
    problem(api.post("/subscribers/ci/ping", {}), 403)
    problem(api.get("/subscribers"), 403)
    assert len(receiver.got) == 2
