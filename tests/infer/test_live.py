"""Versions while the service runs: aliases move, checks fail, tracking goes away."""

import threading

import httpx
import numpy as np
import pytest
from atelier_contracts import names
from atelier_infer.aliases import alias_tracker
from atelier_infer.artifacts import version_loader
from atelier_infer.engine import denoising_state
from atelier_infer.engine.denoising_state import DenoisingState
from atelier_infer.generation import service as desk
from onnx import helper

from .test_generate import problem
from .tiny_bundle import adapter_tensors, build_adapter, build_bundle, change_unet


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """A refused version may be tried again at once."""
    monkeypatch.setattr(version_loader, "REMEMBERED_S", 0.0)
    monkeypatch.setattr(alias_tracker, "SLOWEST_RETRY_S", 0.1)


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
    # the same seed with the old version, by its number, gives the old image
    assert service.draw(version=1).content == before.content


def test_the_first_champion_is_waited_for(make_service, store, publish):
    service = make_service(alias_poll_s=3600)  # only a request wakes the thread
    service.wait(lambda: ready(service) == (200, "ready"))
    problem(service.draw(), 409)
    store.set_alias("champion", publish(seed=1))
    assert version_of(service.draw()) == "1"


def test_a_request_gives_up_on_a_champion_that_takes_long(make_service, store, publish, monkeypatch):
    monkeypatch.setattr(alias_tracker, "PATIENCE_S", 0.05)
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
    store.images[1] = b"\x89PNG of the old one"
    assert b"old" in service.client.get("/versions/1/image").content
    before = service.draw().content
    number = publish(seed=5)
    store.folders = {1: store.folders[number]}
    store.make_model_again()  # version 1 is another adapter now
    store.set_alias("champion", 1)
    store.images[1] = b"\x89PNG of the new one"
    service.wait(lambda: service.draw().content != before)
    assert version_of(service.draw()) == "1"
    assert b"new" in service.client.get("/versions/1/image").content


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
    assert loaded == [4, 1, 3]  # 2 was used longest ago, and an alias draws with 4
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

    class Slow(DenoisingState):
        def take(self, out) -> None:
            started.set()
            go.wait(20)
            super().take(out)

    old = service.draw(steps=3)
    monkeypatch.setattr(desk, "DenoisingState", Slow)
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
    monkeypatch.setattr(version_loader, "REMEMBERED_S", 60.0)
    number = publish(seed=5, weights_sha256="0" * 64)
    details = {problem(service.draw(version=number), 502) for _ in range(3)}
    assert len(details) == 1
    assert store.fetched.count(f"version {number}") == 1


def blank(service, monkeypatch) -> None:
    """Every decoder of every drawing gives one colour from now on."""
    monkeypatch.setattr(DenoisingState, "finish", lambda self, proceed: np.zeros((32, 32, 3), np.uint8))


def test_two_blank_images_in_a_row_and_the_version_before_serves_again(service, store, publish, monkeypatch, caplog):
    before = service.draw().content
    number = publish(seed=5)
    store.set_alias("champion", number)
    service.wait(lambda: version_of(service.draw()) == str(number))
    with monkeypatch.context() as patch:
        blank(service, patch)
        assert 'blank"' in service.draw().headers["warning"]
        assert alias(service)["serving"] == number  # once may be chance
        service.draw()
    assert alias(service) | {"adapter_digest": "", "problem": ""} == {
        "target": number,
        "serving": 1,
        "adapter_digest": "",
        "reverted_from": number,
        "problem": "",
    }
    assert "2 blank or non-finite images in a row; version 1 serves as champion again" in alias(service)["problem"]
    assert ready(service) == (200, "stale")
    assert service.draw().content == before
    assert version_of(service.draw(version=number)) == str(number)  # by its number it can be looked at
    store.set_alias("champion", publish(seed=6))  # the next one is served as ever
    service.wait(lambda: version_of(service.draw()) == "3")
    assert ready(service) == (200, "ready")


@pytest.mark.parametrize(
    "wish",
    [
        {"guidance_scale": 29},
        {"scale": 3.9},
        {"base": True},
        {"width": 64, "height": 32},
        {"adapters": [{"alias": "champion", "weight": 1}] * 4},
        {"adapters": [{"alias": "champion", "weight": 1}, {"version": 1, "weight": 1}]},
    ],
)
def test_wild_requests_say_nothing_about_a_version(service, store, publish, monkeypatch, wish):
    number = publish(seed=5)
    store.set_alias("champion", number)
    service.wait(lambda: version_of(service.draw()) == str(number))
    blank(service, monkeypatch)
    for _ in range(3):
        service.draw(**wish)
    assert alias(service)["serving"] == number


def test_a_graph_that_fails_says_nothing_about_a_version(make_service, store, publish, tmp_path):
    """The base's UNet looks up the last row in a list of one: every guided step fails, the others do not."""
    folder = tmp_path / "fragile"
    build_bundle(folder)
    constants = {"first": np.array([0]), "one": np.array([1]), "nothing": np.zeros(1, np.float32)}
    nodes = [
        helper.make_node("Gather", ["shape", "first"], ["b"]),
        helper.make_node("Sub", ["b", "one"], ["last row"]),
        helper.make_node("Gather", ["nothing", "last row"], ["zero"]),
        helper.make_node("Add", ["plain", "zero"], ["out_sample"]),
    ]
    manifest = change_unet(folder, constants, nodes)
    store.publish_bundle(folder, manifest.digest())
    store.set_alias("champion", publish(seed=1, bundle_digest=manifest.digest()))
    service = make_service()
    service.wait(lambda: ready(service) == (200, "ready"))
    store.set_alias("champion", publish(seed=2, bundle_digest=manifest.digest()))
    service.wait(lambda: version_of(service.draw(guidance_scale=1)) == "2")
    for _ in range(3):
        assert "ONNX Runtime failed" in problem(service.draw(), 500)
    assert alias(service)["serving"] == 2
    assert service.count("images_total", version="2", alias="champion", outcome="failed") == 3
    assert version_of(service.draw(guidance_scale=1)) == "2"


def test_a_step_back_is_reported(make_service, store, publish, monkeypatch):
    reports = []
    store.set_alias("champion", publish(seed=1))
    service = make_service(report_revert=lambda *report: reports.append(report))
    service.wait(lambda: version_of(service.draw()) == "1")
    store.set_alias("champion", publish(seed=5))
    service.wait(lambda: version_of(service.draw()) == "2")
    blank(service, monkeypatch)
    for _ in range(4):
        service.draw()
    ((name, version, serving, reason),) = reports
    assert (name, version, serving) == ("champion", 2, 1)
    assert "2 blank or non-finite images in a row" in reason


def test_healthz_fails_when_the_engine_thread_is_dead(service, monkeypatch):
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


def test_a_sound_image_between_two_blank_ones(service, store, publish, monkeypatch):
    number = publish(seed=5)
    store.set_alias("champion", number)
    service.wait(lambda: version_of(service.draw()) == str(number))
    for _ in range(3):
        with monkeypatch.context() as patch:
            blank(service, patch)
            service.draw()
        service.draw()
    assert alias(service)["serving"] == number


def test_the_first_champion_has_nothing_to_step_back_to(service, monkeypatch):
    blank(service, monkeypatch)
    for _ in range(3):
        assert version_of(service.draw()) == "1"


def test_images_that_are_not_finite_count_as_well(service, store, publish, monkeypatch):
    number = publish(seed=5)
    store.set_alias("champion", number)
    service.wait(lambda: version_of(service.draw()) == str(number))
    with monkeypatch.context() as patch:
        patch.setattr(denoising_state, "initial_noise", lambda *_: np.full((1, 4, 4, 4), np.nan, np.float32))
        for _ in range(2):
            problem(service.draw(), 500)
    assert alias(service)["serving"] == 1


def test_what_requests_use_stays_in_memory_and_more_is_told_to_wait(
    make_service, store, publish, tmp_path, bundle, monkeypatch
):
    go, started = threading.Event(), threading.Event()

    class Slow(DenoisingState):
        def take(self, out) -> None:
            started.set()
            assert go.wait(20)
            super().take(out)

    big = adapter_tensors(rank=9000)  # 0.69 MiB in memory
    for number in range(3):
        build_adapter(tmp_path / f"big {number}", bundle[1].digest(), big, rank=9000, alpha=float(number + 1))
        store.publish_adapter(tmp_path / f"big {number}")
    store.set_alias("champion", publish(seed=5))
    service = make_service(adapter_cache_mib=1, batch_rank=20_000)
    service.wait(lambda: ready(service)[0] == 200)
    monkeypatch.setattr(desk, "DenoisingState", Slow)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(service.draw(version=1)))
    thread.start()
    assert started.wait(20)
    run_between_steps = service.engine.run_between_steps
    monkeypatch.setattr(service.engine, "run_between_steps", lambda call: call())  # or it would wait
    refused = service.draw(version=2)
    assert "requests under way use 0.7 of the 1 MiB" in problem(refused, 503)
    assert refused.headers["retry-after"] == "5"
    assert 1 in [one["version"] for one in service.client.get("/models").json()["adapters"]]
    go.set()
    thread.join()
    monkeypatch.setattr(service.engine, "run_between_steps", run_between_steps)
    version_of(answers[0])
    assert version_of(service.draw(version=2)) == "2"


def test_a_switch_under_load_fails_no_request_and_every_image_is_what_it_says(service, store, publish):
    """Eight clients draw while the champion moves five times; each image is drawn again from its own text."""
    stop, answers = threading.Event(), []

    def client(seed: int) -> None:
        with httpx.Client(base_url=service.client.base_url, headers=service.client.headers, timeout=60) as line:
            while not stop.is_set():
                answers.append(line.post("/generate", json={"prompt": "a cat", "steps": 3, "seed": seed}))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    service.wait(lambda: len(answers) > 8)
    for seed in range(20, 25):
        number = publish(seed=seed)
        store.set_alias("champion", number)
        service.wait(lambda number=number: alias(service)["serving"] == number)
        drawn = len(answers)
        service.wait(lambda drawn=drawn: len(answers) > drawn + 8)
    stop.set()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert {version_of(answer) for answer in answers} == {"1", "2", "3", "4", "5", "6"}
    unlike = {(version_of(answer), answer.headers["x-atelier-seed"]): answer for answer in answers}
    for (number, _), answer in unlike.items():
        found = service.client.post("/verify", content=answer.content).json()
        assert found["same"], number
        assert answer.headers["x-atelier-adapter-digest"] == found["drawn"]["adapter_digest"]


def test_registry_api_can_read_what_was_reverted(service, store, publish):
    from atelier_registry.decisions.revert_monitor import HttpServedModelReader

    from .conftest import SECRET

    reader = HttpServedModelReader(str(service.client.base_url).rstrip("/"), SECRET)
    found = reader.served_model()
    assert found.model == store.model
    assert (found.aliases["champion"].serving, found.aliases["champion"].reverted_from) == (1, None)
    assert found.aliases["champion"].adapter_digest == store.promoted[1]
    number = publish(seed=5)
    store.set_alias("champion", number)
    service.wait(lambda: alias(service)["serving"] == number)
    service.app.state.desk._versions.report_outcome([number, number], sound=False)
    assert reader.served_model().aliases["champion"].reverted_from == number
