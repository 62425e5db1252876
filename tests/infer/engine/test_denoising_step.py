"""Several drawings in one step: nobody's image depends on the company."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atelier_contracts.manifests import BundleManifest
from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams
from atelier_infer.engine.denoising_step import DenoisingStep
from atelier_infer.errors import GraphError, NonFiniteError
from atelier_infer.pipeline.adapter import Adapter, WeightedAdapter
from atelier_infer.pipeline.bundle import Bundle
from atelier_infer.pipeline.lora_layout import GroupWeights
from numpy.typing import NDArray

from ..support import run_together
from ..tiny_bundle import adapter_tensors, build_adapter, read_adapter

SCHEDULERS = ["ddim", "euler", "euler_ancestral", "dpmpp_2m_karras"]


@pytest.fixture
def make_adapter(tmp_path: Path, bundle: tuple[Path, BundleManifest]) -> Callable[..., Adapter]:
    def make(seed: int, rank: int = 2, **changes: Any) -> Adapter:
        folder = tmp_path / f"{seed} {rank} {len(list(tmp_path.iterdir()))}"
        build_adapter(folder, bundle[1].digest(), adapter_tensors(seed=seed, rank=rank, **changes), rank=rank, alpha=2.0 * rank)
        return read_adapter(folder, bundle[1])

    return make


def test_everything_mixed_is_everything_alone(
    opened: Bundle, make_adapter: Callable[..., Adapter], params: SamplingParams
) -> None:
    first, second = make_adapter(1, 2), make_adapter(2, 4)
    mixes = [
        [],
        [WeightedAdapter(first)],
        [WeightedAdapter(second, 0.5)],
        [WeightedAdapter(first, 0.7), WeightedAdapter(second, -0.4)],
        [WeightedAdapter(first, 0.0)],
    ]
    requests = []
    for index in range(12):
        scheduler = SCHEDULERS[index % 4]
        changes = {"guidance_scale": (1.0, 4.0, 7.5)[index % 3], "guidance_until": (1.0, 0.5)[index % 2]}
        words = opened.tokenizer.encode("a dog" if index % 2 else "a cat").ids
        requests.append(
            (mixes[index % 5], replace(params, prompt=words, seed=index, steps=2 + index, scheduler=scheduler, **changes))  # type: ignore[arg-type]
        )
    together = run_together(opened, requests)
    for fields, state in zip(requests, together, strict=True):
        alone = run_together(opened, [fields])[0]
        np.testing.assert_allclose(state.sample, alone.sample, rtol=1e-4, atol=1e-4)
        assert np.abs(state.finish().astype(int) - alone.finish()).max() <= 1


def test_without_adapters_the_batch_changes_no_bit(opened: Bundle, params: SamplingParams) -> None:
    requests = [([], replace(params, seed=seed)) for seed in range(4)]  # type: ignore[var-annotated]
    for fields, state in zip(requests, run_together(opened, requests), strict=True):
        np.testing.assert_array_equal(state.sample, run_together(opened, [fields])[0].sample)


def test_the_base_model_in_a_batch_with_adapters_is_equal_to_the_bit(
    opened: Bundle, make_adapter: Callable[..., Adapter], params: SamplingParams
) -> None:
    requests = [([], params), ([WeightedAdapter(make_adapter(1))], params), ([WeightedAdapter(make_adapter(2, 4))], params)]
    together = run_together(opened, requests)
    np.testing.assert_array_equal(together[0].sample, run_together(opened, requests[:1])[0].sample)
    assert np.abs(together[0].sample - together[1].sample).max() > 0.01


def test_the_order_of_arrival_changes_no_bit(
    opened: Bundle, make_adapter: Callable[..., Adapter], params: SamplingParams
) -> None:
    one, two, three = (WeightedAdapter(make_adapter(seed, rank), 0.7) for seed, rank in ((1, 3), (2, 16), (3, 5)))
    mixes = [[one, two], [three, one], [two, three]]
    requests = [(adapters, replace(params, seed=seed)) for seed, adapters in enumerate(mixes)]
    orders = [[0, 1, 2], [2, 0, 1], [1, 2, 0]]
    found = [dict(zip(order, run_together(opened, [requests[at] for at in order]), strict=True)) for order in orders]
    for at in range(3):
        for other in found[1:]:
            assert np.array_equal(found[0][at].sample, other[at].sample)


def test_a_blend_is_the_sum_of_its_parts(opened: Bundle, make_adapter: Callable[..., Adapter], params: SamplingParams) -> None:
    """Two adapters blended are one adapter of the summed rank whose B hold the weights."""
    first, second = make_adapter(1, 2), make_adapter(2, 4)
    blend = run_together(opened, [([WeightedAdapter(first, 0.7), WeightedAdapter(second, -0.4)], params)])[0]
    groups = [adapter.parts["unet"]["attention"] for adapter in (first, second)]
    weighted = [weight * group.scale * group.b for weight, group in zip((0.7, -0.4), groups, strict=True)]
    a, b = np.concatenate([group.a for group in groups], axis=1), np.concatenate(weighted, axis=1).astype(np.float32)
    merged = replace(first, digest="merged", parts={"unet": {"attention": GroupWeights(a, b, 1.0)}})
    one = run_together(opened, [([WeightedAdapter(merged)], params)])[0]
    np.testing.assert_allclose(blend.sample, one.sample, rtol=1e-4, atol=1e-4)


def test_the_same_adapter_twice_in_a_blend_counts_twice(
    opened: Bundle, make_adapter: Callable[..., Adapter], params: SamplingParams
) -> None:
    adapter = make_adapter(1)
    twice = run_together(opened, [([WeightedAdapter(adapter, 0.25), WeightedAdapter(adapter, 0.5)], params)])[0]
    once = run_together(opened, [([WeightedAdapter(adapter, 0.75)], params)])[0]
    np.testing.assert_array_equal(twice.sample, once.sample)


def test_each_row_has_its_own_scales(opened: Bundle, make_adapter: Callable[..., Adapter], params: SamplingParams) -> None:
    first, second = make_adapter(1, 2), make_adapter(2, 3)  # alpha / rank is 2 for both
    states = [
        DenoisingState(opened, [WeightedAdapter(second, 0.5)], replace(params, guidance_scale=1.0)),
        DenoisingState(opened, [], params),
        DenoisingState(opened, [WeightedAdapter(first), WeightedAdapter(second, 2.0)], params),
    ]
    for state in states:
        state.prepare()
    scales = DenoisingStep()._feeds(states)[0]["attention.lora_scale"]
    assert scales.shape == (5, 1, 5)
    by_adapter = {first.digest: ([0, 0, 0, 2, 2], 2), second.digest: ([1, 0, 0, 4, 4], 3)}  # weights times 2, and the rank
    blocks = [np.repeat([[weight] for weight in by_adapter[one][0]], by_adapter[one][1], axis=1) for one in sorted(by_adapter)]
    assert scales[:, 0].tolist() == np.concatenate(blocks, axis=1).tolist()


def test_guidance_stops_after_its_part_of_the_steps(opened: Bundle, params: SamplingParams) -> None:
    rows = []

    class Counting:
        def run(self, outputs: None, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
            rows.append(len(feeds["sample"]))
            return opened.unet.run(outputs, feeds)

    counting = replace(opened, unet=Counting())  # type: ignore[arg-type]
    for until, steps, expected in ((0.5, 4, [2, 2, 1, 1]), (0.3, 4, [2, 2, 1, 1]), (0.0, 2, [1, 1]), (1.0, 2, [2, 2])):
        rows.clear()
        run_together(counting, [([], replace(params, guidance_until=until, steps=steps))])
        assert rows == expected


def test_one_that_overflows_ends_alone(opened: Bundle, make_adapter: Callable[..., Adapter], params: SamplingParams) -> None:
    """Its infinity turns its neighbours' rows into NaN; they take the step again without it."""
    wild = make_adapter(1, scale=8e37)
    good = make_adapter(2)
    states = [DenoisingState(opened, adapters, params) for adapters in ([WeightedAdapter(good)], [WeightedAdapter(wild)], [])]
    for state in states:
        state.prepare()
    faults = DenoisingStep().step(states)
    assert faults[0] is None
    assert isinstance(faults[1], NonFiniteError)
    assert faults[2] is None
    for state, adapters in ((states[0], [WeightedAdapter(good)]), (states[2], [])):
        alone = DenoisingState(opened, adapters, params)
        alone.prepare()
        DenoisingStep().step([alone])
        np.testing.assert_allclose(state.sample, alone.sample, rtol=1e-5, atol=1e-5)


def test_a_graph_that_fails_for_one_fails_for_that_one_alone(opened: Bundle, params: SamplingParams) -> None:
    class Refusing:
        def run(self, outputs: None, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
            if (feeds["sample"] > 900).any():
                raise RuntimeError("too large")
            return opened.unet.run(outputs, feeds)

    refusing = replace(opened, unet=Refusing())  # type: ignore[arg-type]
    states = [DenoisingState(refusing, [], replace(params, seed=seed)) for seed in range(3)]
    for state in states:
        state.prepare()
    states[1].sample = states[1].sample + np.float32(1000)
    faults = DenoisingStep().step(states)
    assert [type(fault) for fault in faults] == [type(None), GraphError, type(None)]
    assert [state.completed_steps for state in states] == [1, 0, 1]
