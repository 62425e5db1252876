"""What MLflow answered a moment ago: asked once, forgotten after a change, never given to whoever wants to know it now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from atelier_registry.errors import TrackingUnavailableError
from atelier_registry.models.cached_registry import CachedRegistry
from atelier_registry.models.model_registry import Model

from ..adapter_files import FILES
from ..conftest import Api
from ..fake_registry import FakeRegistry
from ..real_registry import RealWorld


@pytest.fixture
def recent(fake: FakeRegistry) -> CachedRegistry:
    return CachedRegistry(fake, 60)


def asked(fake: FakeRegistry, recent: CachedRegistry, method: str, *about: Any) -> tuple[int, Any]:
    """How often MLflow was asked, and the answer."""
    before = len(fake.calls)
    answer = getattr(recent, method)(*about)
    return len(fake.calls) - before, answer


def test_a_read_is_cached_until_something_changes(fake: FakeRegistry, recent: CachedRegistry, adapters: str) -> None:
    run = fake.version(adapters, 5).run_id
    fake.add_point(adapters, 5, "loss", 1, 0.5)
    fake.add_image(adapters, 5, "validation", 1, b"\x89PNG")
    questions = [
        ("models", 20, None), ("model", adapters), ("versions", adapters, 20, None), ("version", adapters, 5),
        ("run", run), ("runs", [run]), ("curve", run, "loss"), ("images", run),
    ]  # fmt: skip
    for question in questions:
        first, second = asked(fake, recent, *question), asked(fake, recent, *question)  # type: ignore[arg-type]
        assert (first[0], second[0]) == (1, 0), question
        assert first[1] == second[1] == getattr(fake, question[0])(*question[1:])  # type: ignore[arg-type]
    recent.invalidate()
    assert [asked(fake, recent, *question)[0] for question in questions] == [1] * len(questions)  # type: ignore[arg-type]


def test_other_arguments_are_cached_separately(fake: FakeRegistry, recent: CachedRegistry, adapters: str) -> None:
    assert [version.number for version in recent.versions(adapters, 2, None).items] == [5, 4]
    assert [version.number for version in recent.versions(adapters, 1, None).items] == [5]
    assert (recent.version(adapters, 1).number, recent.version(adapters, 2).number) == (1, 2)


def test_a_cached_answer_expires(fake: FakeRegistry, adapters: str) -> None:
    recent, never = CachedRegistry(fake, 0.05), CachedRegistry(fake, 0)
    for _ in range(2):
        assert asked(fake, recent, "model", adapters)[0] == 1
        assert asked(fake, never, "model", adapters)[0] == 1
        time.sleep(0.1)


def test_missing_objects_and_failures_are_not_cached(fake: FakeRegistry, recent: CachedRegistry, adapters: str) -> None:
    assert recent.model("coming") is None
    assert not recent.versions("coming", 20, None).items
    fake.add_model("coming")
    fake.add_version("coming")
    assert recent.model("coming") is not None
    assert recent.versions("coming", 20, None).items
    fake.down = True
    with pytest.raises(TrackingUnavailableError):
        recent.model(adapters)
    fake.down = False
    assert recent.model(adapters) is not None


class Gate:
    """A registry's question that waits until it is let go."""

    def __init__(self, question: Callable[..., Model | None]) -> None:
        self.__name__, self._question = question.__name__, question
        self.begun, self.go, self.count = threading.Event(), threading.Event(), 0

    def __call__(self, *about: str) -> Model:
        self.count += 1
        answer = self._question(*about)
        self.begun.set()
        assert self.go.wait(20)
        return answer


def test_concurrent_readers_share_a_request(fake: FakeRegistry, recent: CachedRegistry, adapters: str) -> None:
    fake.model = gate = Gate(fake.model)  # type: ignore[assignment]
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(recent.model, adapters) for _ in range(8)]
        assert gate.begun.wait(20)
        gate.go.set()
        assert {each.result(20).name for each in found} == {adapters}
    assert gate.count == 1


def test_concurrent_readers_share_a_failure(fake: FakeRegistry, recent: CachedRegistry, adapters: str) -> None:
    def failing(name: str) -> None:
        failing.count += 1  # type: ignore[attr-defined]
        assert go.wait(20)
        raise TrackingUnavailableError

    failing.count, go = 0, threading.Event()  # type: ignore[attr-defined]
    fake.model = failing
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(recent.model, adapters) for _ in range(4)]
        while not failing.count:  # type: ignore[attr-defined]
            time.sleep(0.01)
        time.sleep(0.1)
        go.set()
        for each in found:
            with pytest.raises(TrackingUnavailableError):
                each.result(20)


def test_an_answer_from_before_a_change_is_not_cached(fake: FakeRegistry, recent: CachedRegistry, adapters: str) -> None:
    plain = fake.model
    fake.model = gate = Gate(plain)  # type: ignore[assignment]
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(recent.model, adapters)
        assert gate.begun.wait(20)  # MLflow has answered, nobody has read it yet
        fake.model = plain
        fake.set_alias(adapters, "champion", 3)
        recent.invalidate()
        assert recent.model(adapters).aliases == {"champion": 3}  # does not wait for the one under way either
        gate.go.set()
        assert early.result(20).aliases == {}
    assert recent.model(adapters).aliases == {"champion": 3}


def test_files_of_a_complete_version_stay_cached(fake: FakeRegistry, recent: CachedRegistry, adapters: str) -> None:
    assert recent.files(adapters, 5) == FILES
    recent.invalidate()
    assert asked(fake, recent, "files", adapters, 5) == (1, FILES)  # whether it is the same version
    assert recent.files(adapters, 5, [next(iter(FILES))]).keys() == {next(iter(FILES))}


def test_a_reused_version_number_is_another_version(fake: FakeRegistry, recent: CachedRegistry, adapters: str) -> None:
    assert recent.files(adapters, 5) == FILES
    fake.delete_version(adapters, 5)
    time.sleep(0.002)  # MLflow's times are whole milliseconds
    other = {name: text + " " for name, text in FILES.items()}
    assert fake.add_version(adapters, files=other) == 5
    recent.invalidate()
    assert recent.files(adapters, 5) == other


def test_missing_files_are_not_cached(fake: FakeRegistry, recent: CachedRegistry, name: str) -> None:
    fake.add_model(name)
    number = fake.add_version(name, files={})
    assert recent.files(name, number) == {}
    pending = fake.add_version(name, files=FILES)
    fake.make_pending(name, pending)
    for version in (number, pending):
        before = fake.calls.count("files")
        for _ in range(2):
            recent.files(name, version)
        assert fake.calls.count("files") == before + 2


def test_own_changes_are_visible_at_once_and_others_after_the_ttl(
    start: Callable[..., Api], world: FakeRegistry | RealWorld, name: str
) -> None:
    world.add_model(name)
    for _ in range(3):
        world.add_version(name, tags={"atelier.kind": "adapter"}, files=FILES)
    api = start(world.registry, cache_ttl_s=60.0)
    version = f"/models/{name}/versions/2"
    reads = (
        (f"/models/{name}", lambda model: model["aliases"].get("champion")),
        (f"/models/{name}/versions", lambda page: [each["version"] for each in page["versions"] if each["aliases"]]),
        (version, lambda found: found["aliases"]),
    )

    def seen(headers: dict[str, str] | None = None) -> Any:
        return [pick(api.get(path, headers).json()) for path, pick in reads]

    assert seen() == [None, [], []]
    assert api.promote(name, 2).status_code == 200
    assert seen() == [2, [2], ["champion"]]  # our own change, at once
    assert api.get(f"/models/{name}/aliases/champion").json()["version"] == 2
    world.point(name, "champion", 3)
    assert seen() == [2, [2], ["champion"]]
    assert seen({"Cache-Control": "no-cache"}) == [3, [3], []]
    assert api.get(f"/models/{name}/aliases/champion", {"Cache-Control": "No-Cache"}).json()["version"] == 3
    assert api.promote(name, 1).json()["from_version"] == 3  # who decides asks MLflow
    assert seen() == [1, [1], []]
    retired = api.post(f"{version}/retire", {"reason": "old"}).json()
    assert api.get(version).json()["tags"]["atelier.retired"] == str(retired["id"])
