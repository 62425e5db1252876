"""The account of memory: its limit, what is measured, what is let in, what waits, what is refused, what is given back."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams
from atelier_infer.engine.denoising_step import DenoisingStep
from atelier_infer.engine.memory_budget import MIB, MemoryBudget, resident_bytes
from atelier_infer.errors import ImageSizeError, OutOfMemoryError
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.adapter import WeightedAdapter
from atelier_infer.pipeline.bundle import Bundle, open_bundle
from atelier_infer.pipeline.memory_model import Cost, MemoryModel
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from ..conftest import TINY_MEMORY, Service
from ..fake_store import FakeStore
from ..support import problem
from ..tiny_bundle import build_bundle, change_unet, read_adapter, write_manifest

PLENTY = 2**40


def costs(step_px: float, *, decode_px: float = 0, resident: int = 0) -> MemoryModel:
    """So many bytes per row and pixel of a step."""
    flat = {"fixed": 0, "per_px2": 0, "measured_px": 1}
    return MemoryModel(resident_bytes=resident, step=Cost(per_px=step_px, **flat), decode=Cost(per_px=decode_px, **flat))


@pytest.fixture
def opened(bundle: tuple[Path, BundleManifest]) -> Bundle:
    return open_bundle(bundle[0], runtime=Runtime(intra_op_threads=1))


def test_an_image_that_never_fits_is_refused_with_the_largest_square(opened: Bundle) -> None:
    memory, base = MemoryBudget(100 * MIB, process_bytes=20 * MIB), replace(opened, memory=costs(1000, resident=10 * MIB))
    memory.check_size(base, 256, 256)  # 70 MiB are left for 62.5 and a preview of 6
    with pytest.raises(ImageSizeError, match="received 272 x 256; the largest square that fits is 256 x 256 px"):
        memory.check_size(base, 272, 256)
    base = replace(base, memory=costs(1000, resident=72 * MIB))
    with pytest.raises(ImageSizeError, match="the largest square that fits is 32 x 32 px"):
        memory.check_size(base, 128, 128)
    memory.check_size(opened, 4096, 4096)  # not measured, so not known


def test_the_decoder_counts_too(opened: Bundle) -> None:
    memory, base = MemoryBudget(100 * MIB, process_bytes=0), replace(opened, memory=costs(1, decode_px=1000))
    memory.check_size(base, 256, 256)
    with pytest.raises(ImageSizeError):
        memory.check_size(base, 512, 512)


def test_tiles_are_smaller_where_a_whole_image_leaves_no_room_for_a_step(opened: Bundle) -> None:
    base = replace(opened, memory=costs(100, decode_px=1000))
    assert MemoryBudget(PLENTY, process_bytes=0).decode_tile_px(base) == 768
    assert MemoryBudget(100 * MIB, process_bytes=0).decode_tile_px(base) == 320  # 97.7 MiB beside a step of 0.2
    assert MemoryBudget(1 * MIB, process_bytes=0).decode_tile_px(base) == base.manifest.native_size_px


def test_a_step_takes_images_as_long_as_their_rows_fit(opened: Bundle, params: SamplingParams) -> None:
    memory = MemoryBudget(16 * MIB, process_bytes=0)  # 10 without a preview
    base = replace(opened, memory=costs(1024))
    states = [DenoisingState(base, [], replace(params, guidance_scale=3.0, width=32)) for _ in range(8)]  # 2 rows of 1 MiB each
    assert [memory.fits(states[:count], ()) for count in (1, 5, 6)] == [True, True, False]
    memory.track(states[0], "adapters", 7 * MIB)
    assert [memory.fits(states[:count], ()) for count in (1, 2)] == [True, False]
    assert memory.max_rows(states[:1]) == 2
    memory.track(states[0], "adapters", 2 * MIB)
    assert memory.fits(states[:1], ())
    assert memory.max_rows(states[:1]) == 1
    memory.track(states[0], "adapters", 1 * MIB)
    assert not memory.fits(states[:1], ())
    assert "needs 1 MiB now: of 16 MiB are in use: adapters 10" in str(memory.out_of_memory_error(states[0]))


def test_a_step_leaves_room_for_what_is_decoded(opened: Bundle, params: SamplingParams) -> None:
    memory, base = MemoryBudget(14 * MIB, process_bytes=0), replace(opened, memory=costs(1024, decode_px=64))
    state = DenoisingState(base, [], params)  # a preview takes 10 MiB with its bytes
    assert memory.fits([state], ())
    large = DenoisingState(base, [], replace(params, width=320, height=320))
    assert not memory.fits([state], [large])


def test_a_tracked_object_counts_until_it_is_collected() -> None:
    class Thing:
        pass

    memory, thing = MemoryBudget(100, process_bytes=10), Thing()
    memory.track(thing, "adapters", 30)
    holders = [thing, {"kept": thing}]
    del thing
    assert (memory.usage()["adapters"], memory.free_bytes) == (30, 60)
    holders.clear()
    gc.collect()
    assert (memory.usage()["adapters"], memory.free_bytes) == (0, 90)


def test_rows_one_after_the_other_give_the_same_image(
    opened: Bundle, adapter: tuple[Path, AdapterManifest], params: SamplingParams
) -> None:
    loaded, guided = read_adapter(adapter[0], opened.manifest), replace(params, guidance_scale=4.0)
    for adapters in ([], [WeightedAdapter(loaded)]):
        images = []
        for most in (2, 1):
            state, batch = DenoisingState(opened, adapters, guided), DenoisingStep(max_rows=lambda _, most=most: most)  # type: ignore[misc]
            state.prepare()
            while not state.done:
                assert batch.step([state]) == [None]
            images.append(state.finish().astype(int))
        assert np.abs(images[0] - images[1]).max() <= 1


# --- with the service


def limit_mib(mib: int) -> int:
    """A limit that leaves this much besides what the process uses already."""
    return resident_bytes() // MIB + mib


def test_the_service_refuses_sizes_that_never_fit(
    make_service: Callable[..., Service], store: FakeStore, adapter: tuple[Path, AdapterManifest]
) -> None:
    store.set_alias("champion", store.publish_adapter(adapter[0]))
    service = make_service(memory_mib=limit_mib(2000), measure=lambda folder, room: costs(1000, resident=MIB))
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    assert service.generate(width=512, height=512).status_code == 200
    service.engine.memory.track(service, "adapters", service.engine.memory.free_bytes - 100 * MIB)
    assert "send the request again later" in problem(service.generate(width=512, height=512), 503)
    assert service.generate(width=64, height=64).status_code == 200
    service.engine.memory.limit_bytes = service.engine.memory._process + 200 * MIB
    reported = problem(service.generate(width=1024, height=1024), 422)
    assert "the largest square that fits is 448 x 448 px" in reported


def test_an_adapter_that_does_not_fit_is_refused_and_its_alias_keeps_what_it_served(
    service: Service, store: FakeStore, publish: Callable[..., int]
) -> None:
    held = service.engine.memory
    held.track(service, "kept", held.free_bytes + MIB)
    store.set_alias("champion", publish(seed=5))
    service.wait(lambda: service.client.get("/models").json()["aliases"]["champion"]["problem"])
    reported = service.client.get("/models").json()["aliases"]["champion"]
    assert (reported["target_version"], reported["serving_version"]) == (2, 1)
    assert "an adapter of 0.0 MiB does not fit: of " in reported["problem"]
    assert service.client.get("/readyz").json() == {"status": "stale"}


def test_a_second_base_model_that_does_not_fit_is_refused(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], tmp_path: Path
) -> None:
    measured = []

    def measure(folder: Path, room: int) -> MemoryModel:
        measured.append(room)
        return TINY_MEMORY.model_copy(update={"resident_bytes": 600 * MIB})

    store.set_alias("champion", publish(seed=1))
    service = make_service(memory_mib=limit_mib(1000), measure=measure)
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    other = build_bundle(tmp_path / "other", seed=9)
    store.publish_bundle(tmp_path / "other", other.digest())
    store.set_alias("champion", publish(seed=2, bundle_digest=other.digest()))
    service.wait(lambda: service.client.get("/models").json()["aliases"]["champion"]["problem"])
    reported = service.client.get("/models").json()
    assert "needs 600 MiB while the one before it is in memory" in reported["aliases"]["champion"]["problem"]
    assert reported["memory"]["used_mib"]["bundles"] == 600
    assert measured[1] <= (1000 - 600) * MIB / 2
    assert service.generate().status_code == 200


def test_a_job_that_has_ended_holds_no_adapter(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], adapter: tuple[Path, AdapterManifest]
) -> None:
    store.set_alias("champion", publish(seed=1))
    service = make_service()
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    number = publish(seed=3)
    fields = {"prompt": "a cat", "version": number, "steps": 2}
    jobs = [service.client.post("/jobs", json=fields | more).json()["id"] for more in ({}, {"n": 2})]
    for job in jobs:
        service.wait(lambda job=job: service.client.get(f"/jobs/{job}").json()["state"] == "succeeded")
    before = service.engine.memory.usage()["adapters"]
    service.app.state.loader.clear()
    gc.collect()
    after = service.engine.memory.usage()["adapters"]
    assert (before, after) == (2 * after, before / 2)  # the champion's is left
    reported = service.client.get(f"/jobs/{jobs[1]}").json()
    assert (reported["completed_steps"], reported["total_steps"], len(reported["images"])) == (4, 4, 2)
    assert Image.open(io.BytesIO(service.client.get(reported["images"][1]).content)).size == (32, 32)


def test_memory_is_exposed_as_metrics(service: Service) -> None:
    text = service.client.get("/metrics").text
    assert "atelier_infer_memory_limit_bytes" in text
    assert service.count("memory_bytes", part="bundles") == TINY_MEMORY.resident_bytes
    assert service.count("memory_bytes", part="process") > 10 * MIB


# --- running out of memory


def hungry(folder: Path) -> None:
    """A base whose step asks ONNX Runtime for rows ** 24 / 2 ** 24 floats: 4 rows have them, 8 rows ask for a pebibyte."""
    build_bundle(folder)
    change_unet(
        folder,
        {"first": np.array(0), "exponent": np.array(24.0), "divisor": np.array([2.0**24]), "nothing": np.array(0, np.float32)},
        [
            helper.make_node("Gather", ["shape", "first"], ["b"]),
            helper.make_node("Cast", ["b"], ["b float"], to=TensorProto.DOUBLE),
            helper.make_node("Pow", ["b float", "exponent"], ["power"]),
            helper.make_node("Div", ["power", "divisor"], ["count float"]),
            helper.make_node("Cast", ["count float"], ["count"], to=TensorProto.INT64),
            helper.make_node("ConstantOfShape", ["count"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "nothing"], ["zero"]),
            helper.make_node("Add", ["plain", "zero"], ["out_sample"]),
        ],
    )


@pytest.fixture
def hungry_service(
    make_service: Callable[..., Service], store: FakeStore, publish: Callable[..., int], tmp_path: Path
) -> Service:
    hungry(tmp_path / "hungry")
    manifest = write_manifest(tmp_path / "hungry")
    store.publish_bundle(tmp_path / "hungry", manifest.digest())
    store.set_alias("champion", publish(seed=1, bundle_digest=manifest.digest()))
    service = make_service()
    service.wait(lambda: service.client.get("/readyz").status_code == 200)
    return service


def test_out_of_memory_splits_the_batch_once_and_is_remembered(
    hungry_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = []
    real = hungry_service.engine.memory.record_out_of_memory
    batch = hungry_service.engine._take_step.__self__  # type: ignore[attr-defined]
    batch._record_out_of_memory = lambda states, rows: (failures.append(rows), real(states, rows))
    alone = hungry_service.generate(steps=20, seed=3).content

    def draw(seed: int) -> httpx.Response:
        return hungry_service.generate(steps=20, seed=seed)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(draw, [3] * 8))
    assert [answer.status_code for answer in answers] == [200] * 8
    apart = [np.abs(pixels(answer.content) - pixels(alone)).max() for answer in answers]
    assert max(apart) <= 1
    assert 1 <= len(failures) <= 3  # 8 rows, perhaps 6 and 5 before it
    assert hungry_service.client.get("/models").json()["aliases"]["champion"]["problem"] is None


def pixels(png: bytes) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


def test_a_single_row_that_runs_out_of_memory_is_refused_and_remembered(opened: Bundle, params: SamplingParams) -> None:
    class Full:
        def run(self, *_: Any) -> None:
            raise MemoryError

    memory = MemoryBudget(PLENTY, process_bytes=0, forget_s=1000)
    base = replace(opened, unet=Full(), memory=costs(1))
    batch = DenoisingStep(max_rows=memory.max_rows, record_out_of_memory=memory.record_out_of_memory)
    state = DenoisingState(base, [], replace(params, width=64, height=64))
    state.prepare()
    with pytest.raises(OutOfMemoryError, match="not enough memory for this size"):
        batch.step([state])
    with pytest.raises(ImageSizeError, match="the largest square that fits is 48 x 48 px"):
        memory.check_size(base, 64, 64)
    memory.check_size(base, 48, 48)
