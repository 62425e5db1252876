"""The size of the cache folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from atelier_infer.artifacts.cache_eviction import CacheEvictor

from ..conftest import Service
from ..fake_store import FakeStore

MIB = 2**20


def fill(folder: Path, name: str, *, mib: float = 1, age_s: float = 1000) -> Path:
    """A folder with one file, last used so long ago."""
    path = folder / name
    (path / "deep").mkdir(parents=True)
    (path / "deep/file").write_bytes(b"x" * int(mib * MIB))
    for one in (path / "deep/file", path):
        os.utime(one, (time.time() - age_s,) * 2)
    return path


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    old, middle, young = (
        fill(tmp_path, name, age_s=age) for name, age in (("bundles/a", 3000), ("adapters/b", 2000), ("graphs/cpu/c", 1000))
    )
    cache = CacheEvictor(tmp_path, 3 * MIB)
    cache.trim()
    assert cache.nbytes == 3 * MIB
    new = fill(tmp_path, "adapters/d")
    cache.record_use(old)
    assert [path.exists() for path in (old, middle, young, new)] == [True, False, True, True]
    assert cache.nbytes == 3 * MIB


def test_what_is_in_memory_or_was_just_used_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    needed, fresh = fill(tmp_path, "bundles/aaa", age_s=9000), fill(tmp_path, "bundles/bbb", age_s=10)
    graph, other = fill(tmp_path, "graphs/cpu/aaa-unet", age_s=9000), fill(tmp_path, "graphs/cpu/ccc-unet", age_s=100)
    cache = CacheEvictor(tmp_path, 0)
    cache.protect(lambda: {"aaa"})
    cache.trim()
    assert [path.exists() for path in (needed, fresh, graph, other)] == [True, True, True, False]
    assert "exceeds cache_limit_mib" in caplog.text


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    left = fill(tmp_path, "graphs/cpu/incoming-x"), fill(tmp_path, "incoming-y")
    being = fill(tmp_path, "graphs/cpu/incoming-z")
    os.utime(being / "deep/file")  # its folder is old
    cache = CacheEvictor(tmp_path, 100 * MIB)
    assert cache.nbytes == 3 * MIB
    cache.trim()
    assert [path.exists() for path in (*left, being)] == [False, False, True]


def test_the_service_fills_it_and_stays_below_the_limit(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], tmp_path: Path
) -> None:
    store.set_alias("champion", publish(seed=1))
    service = make_service(cache_limit_mib=2, adapter_cache_mib=0)
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    old = [fill(tmp_path / "cache", f"adapters/{index}" * 1, mib=0.5) for index in range(6)]
    assert service.client.get("/models").json()["cache_mib"] > 3
    assert service.generate(version=publish(seed=2)).status_code == 200
    reported = service.client.get("/models").json()
    assert 1 < reported["cache_mib"] <= reported["cache_limit_mib"] == 2
    assert 0 < sum(path.exists() for path in old) < 4
    assert service.generate().status_code == 200


@pytest.mark.parametrize("name", ["somewhere", "bundles.txt", "memory"])
def test_nothing_else_in_the_folder_is_touched(tmp_path: Path, name: str) -> None:
    path = fill(tmp_path, name)
    CacheEvictor(tmp_path, 0).trim()
    assert path.exists()
