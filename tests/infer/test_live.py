"""Versions while the service runs: aliases move, checks fail, tracking goes away."""

import threading

import pytest
from atelier_contracts import names
from atelier_infer import desk, loader, versions
from atelier_infer.drawing import Drawing

from .test_generate import problem
from .tiny_bundle import adapter_tensors, build_adapter, build_bundle


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """A refused version may be tried again at once."""
    monkeypatch.setattr(loader, "REMEMBERED_S", 0.0)
    monkeypatch.setattr(versions, "SLOWEST_RETRY_S", 0.1)


@pytest.fixture
def publish(store, bundle, tmp_path):
    """Registers another version; what it draws differs by seed."""

    def publish(seed: int, bundle_digest: str | None = None, **changes) -> int:
        folder = tmp_path / f"adapter {seed} {len(store.folders)}"
        build_adapter(folder, bundle_digest or bundle[1].digest(), adapter_tensors(seed=seed), **changes)
        return store.publish_adapter(folder)

    return publish


def version_of(response) -> str:
    assert response.status_code == 200, response.text
    return response.headers[names.HEADER_VERSION]


def alias(service, name="champion") -> dict:
    return service.client.get("/models").json()["aliases"].get(name, {})


def ready(service) -> tuple[int, str]:
    answer = service.client.get("/readyz")
    return answer.status_code, answer.json()["status"]


def test_a_new_champion_draws_without_a_restart(service, store, publish):
    before = service.draw()
    number = publish(seed=5)
    store.set_alias("champion", number)
    service.wait(lambda: version_of(service.draw()) == str(number))
    after = service.draw()
    assert after.content != before.content
    # the same seed with the old version, by its number, gives the old picture
    assert service.draw(version=1).content == before.content


def test_the_first_champion_is_waited_for(make_service, store, publish):
    service = make_service(alias_poll_s=3600)  # only a request wakes the thread
    service.wait(lambda: ready(service) == (200, "ready"))
    problem(service.draw(), 409)
    store.set_alias("champion", publish(seed=1))
    assert version_of(service.draw()) == "1"


def test_a_request_gives_up_on_a_champion_that_takes_long(make_service, store, publish, monkeypatch):
    monkeypatch.setattr(versions, "PATIENCE_S", 0.05)
    go = threading.Event()
    fetch = store.fetch_adapter
    monkeypatch.setattr(store, "fetch_adapter", lambda *args: go.wait(20) and fetch(*args))
    store.set_alias("champion", publish(seed=1))
    service = make_service()
    service.wait(lambda: alias(service) != {})
    answer = service.draw()
    assert "version 1, the champion, is being loaded" in problem(answer, 503)
    assert answer.headers["retry-after"] == "5"
    assert ready(service) == (503, "starting")
    go.set()
    service.wait(lambda: ready(service) == (200, "ready"))
    assert version_of(service.draw()) == "1"


def test_a_champion_that_fails_its_checks_leaves_the_old_one(service, store, publish, caplog):
    number = publish(seed=5, weights_sha256="0" * 64)
    store.set_alias("champion", number)
    service.wait(lambda: alias(service)["problem"])
    assert ready(service) == (200, "stale")
    assert alias(service)["target"] == number
    assert alias(service)["serving"] == 1
    assert "0" * 64 in alias(service)["problem"]
    assert version_of(service.draw()) == "1"
    tries = len(store.fetched)
    service.wait(lambda: len(store.fetched) > tries + 2)  # it is tried again …
    refusals = [record for record in caplog.records if record.getMessage().startswith("version refused")]
    assert len(refusals) == 1  # … and logged once
    store.set_alias("champion", publish(seed=6))
    service.wait(lambda: ready(service) == (200, "ready"))
    assert version_of(service.draw()) == "3"


def test_a_first_champion_that_fails_its_checks_is_told(make_service, store, publish):
    store.set_alias("champion", publish(seed=5, bundle_digest="f" * 64))
    service = make_service()
    service.wait(lambda: ready(service) == (200, "stale"))
    assert "f" * 64 in problem(service.draw(), 409)


def test_a_failure_that_passes_is_forgotten(service, store, publish, tmp_path):
    manifest = build_bundle(tmp_path / "late", seed=9)
    number = publish(seed=5, bundle_digest=manifest.digest())
    store.set_alias("champion", number)
    service.wait(lambda: ready(service) == (200, "stale"))
    store.publish_bundle(tmp_path / "late", manifest.digest())
    service.wait(lambda: version_of(service.draw()) == str(number))
    assert ready(service) == (200, "ready")


def test_any_alias_is_followed_once_it_was_asked_for(service, store, publish):
    store.set_alias("rival", publish(seed=5))
    assert version_of(service.draw(alias="rival")) == "2"
    store.set_alias("rival", publish(seed=6))
    service.wait(lambda: version_of(service.draw(alias="rival")) == "3")
    assert version_of(service.draw()) == "1"
    store.delete_alias("rival")
    service.wait(lambda: service.draw(alias="rival").status_code == 404)


def test_a_champion_that_is_taken_away(service, store):
    store.delete_alias("champion")
    service.wait(lambda: service.draw().status_code == 409)
    assert version_of(service.draw(version=1)) == "1"


def test_while_tracking_is_down_everything_loaded_serves(service, store, publish):
    store.set_alias("rival", publish(seed=5))
    version_of(service.draw(alias="rival"))
    publish(seed=6)
    store.down = True
    service.wait(lambda: ready(service) == (200, "stale"))
    assert version_of(service.draw()) == "1"
    assert version_of(service.draw(alias="rival")) == "2"
    assert version_of(service.draw(version=2)) == "2"
    assert version_of(service.draw(base=True)) == "base"
    assert "champion, rival" in problem(service.draw(alias="other"), 404)  # from what was known last
    answer = service.draw(version=3)
    assert "cannot be reached" in problem(answer, 503)
    assert answer.headers["retry-after"] == "5"
    store.down = False
    service.wait(lambda: ready(service) == (200, "ready"))
    assert version_of(service.draw(version=3)) == "3"


def test_before_tracking_ever_answered(make_service, store, publish):
    store.down = True
    service = make_service()
    assert ready(service) == (503, "starting")
    assert service.client.get("/healthz").status_code == 200
    problem(service.draw(), 503)
    problem(service.draw(version=1), 503)
    store.down = False
    service.wait(lambda: ready(service) == (200, "ready"))
    problem(service.draw(), 409)


def test_a_model_that_was_made_anew_starts_from_nothing(service, store, publish):
    before = service.draw().content
    number = publish(seed=5)
    store.folders = {1: store.folders[number]}
    store.generation = "2"  # version 1 is another adapter now
    service.wait(lambda: service.draw().content != before)
    assert version_of(service.draw()) == "1"


def test_versions_by_number_are_kept_up_to_the_limit(make_service, store, publish, tmp_path, bundle):
    big = adapter_tensors(rank=9000)  # 0.69 MiB in memory
    for number in range(3):
        build_adapter(tmp_path / f"big {number}", bundle[1].digest(), big | {}, rank=9000, alpha=float(number + 1))
        store.publish_adapter(tmp_path / f"big {number}")
    store.set_alias("champion", publish(seed=5))
    service = make_service(adapter_cache_mib=2)
    service.wait(lambda: ready(service)[0] == 200)
    for number in (1, 2, 1, 3):
        version_of(service.draw(version=number))
    loaded = [adapter["version"] for adapter in service.client.get("/models").json()["adapters"]]
    assert loaded == [1, 3]  # 4 and 2 were used longest ago
    fetched = len(store.fetched)
    version_of(service.draw())  # the champion needs no room there
    version_of(service.draw(version=4))  # nor does it by its number
    version_of(service.draw(version=2))  # from the disk
    assert len(store.fetched) == fetched


def test_bundles_that_nothing_needs_are_closed(service, store, publish, tmp_path, bundle):
    other = build_bundle(tmp_path / "other", seed=9)
    store.publish_bundle(tmp_path / "other", other.digest())
    number = publish(seed=5, bundle_digest=other.digest())

    def open_now() -> set[str]:
        return {loaded["bundle_digest"] for loaded in service.client.get("/models").json()["bundles"]}

    assert service.draw(version=number).headers[names.HEADER_BUNDLE] == other.digest()
    assert open_now() == {bundle[1].digest(), other.digest()}
    store.set_alias("champion", number)
    service.wait(lambda: open_now() == {other.digest()})
    assert service.draw(base=True).headers[names.HEADER_BUNDLE] == other.digest()
    assert service.draw(version=1).headers[names.HEADER_BUNDLE] == bundle[1].digest()  # opened again


def test_a_champion_is_staged_while_the_old_one_draws(service, store, publish, monkeypatch):
    """The old version's drawing, begun before the swap, ends with the old version; the probe runs between its steps."""
    go, started = threading.Event(), threading.Event()

    class Slow(Drawing):
        def take(self, out) -> None:
            started.set()
            go.wait(20)
            super().take(out)

    old = service.draw(steps=3)
    monkeypatch.setattr(desk, "Drawing", Slow)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(service.draw(steps=3)))
    thread.start()
    assert started.wait(20)
    store.set_alias("champion", publish(seed=5))
    service.wait(lambda: alias(service)["target"] == 2)
    go.set()
    thread.join()
    assert answers[0].content == old.content
    service.wait(lambda: alias(service)["serving"] == 2)


def test_a_round_that_fails_oddly_does_not_end_the_thread(service, store, publish, monkeypatch, caplog):
    look = store.look
    monkeypatch.setattr(store, "look", lambda: 1 / 0)
    service.wait(lambda: any("failed" in record.getMessage() for record in caplog.records))
    monkeypatch.setattr(store, "look", look)
    store.set_alias("champion", publish(seed=5))
    service.wait(lambda: version_of(service.draw()) == "2")


def test_a_refused_version_is_not_downloaded_at_every_request(service, store, publish, monkeypatch):
    monkeypatch.setattr(loader, "REMEMBERED_S", 60.0)
    number = publish(seed=5, weights_sha256="0" * 64)
    details = {problem(service.draw(version=number), 502) for _ in range(3)}
    assert len(details) == 1
    assert store.fetched.count(f"version {number}") == 1
