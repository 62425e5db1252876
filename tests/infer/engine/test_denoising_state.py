"""Drawing without a service around it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from atelier_contracts.styles import SchedulerName
from atelier_infer.engine import denoising_state
from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams
from atelier_infer.engine.denoising_step import DenoisingStep, probe
from atelier_infer.errors import GraphError, NonFiniteError
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.adapter import Adapter, WeightedAdapter
from atelier_infer.pipeline.bundle import Bundle, open_bundle
from atelier_infer.pipeline.noise import initial_noise
from numpy.typing import NDArray

from ..tiny_bundle import adapter_tensors, build_adapter, read_adapter


@pytest.fixture(scope="module")
def opened(bundle: tuple[Path, BundleManifest]) -> Bundle:
    return open_bundle(bundle[0], runtime=Runtime(intra_op_threads=1))


@pytest.fixture
def loaded(adapter: tuple[Path, AdapterManifest], bundle: tuple[Path, BundleManifest]) -> Adapter:
    return read_adapter(adapter[0], bundle[1])


@pytest.fixture
def params(opened: Bundle) -> SamplingParams:
    ids = opened.tokenizer.encode("a cat").ids
    return SamplingParams(ids, opened.tokenizer.encode("").ids, 4, 5.0, seed=3, width=48, height=32, scheduler="ddim")


def step(made: DenoisingState) -> None:
    if fault := DenoisingStep().step([made])[0]:
        raise fault


def draw(bundle: Bundle, adapter: Adapter | None, params: SamplingParams, *, strength: float = 1.0) -> np.ndarray:
    made = DenoisingState(bundle, [WeightedAdapter(adapter, strength)] if adapter else [], params)
    made.prepare()
    while not made.done:
        step(made)
    return made.finish()


def test_the_noise_of_a_seed_never_changes() -> None:
    noise = initial_noise(42, 4, 2, 3)
    assert (noise.shape, noise.dtype) == ((1, 4, 2, 3), np.float32)
    np.testing.assert_array_equal(
        noise, np.random.Generator(np.random.PCG64(42)).standard_normal((1, 4, 2, 3), dtype=np.float32)
    )
    expected = [0.141907, -1.668508, -1.332108, 0.582553, 0.374037, 1.755445, 0.139629, 0.419191, -0.52172]
    np.testing.assert_allclose(noise.ravel()[:9], expected, atol=1e-6)


def test_pixels(opened: Bundle, loaded: Adapter, params: SamplingParams) -> None:
    pixels = draw(opened, loaded, params)
    assert (pixels.shape, pixels.dtype) == ((32, 48, 3), np.uint8)
    np.testing.assert_array_equal(pixels, draw(opened, loaded, params))


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "euler_ancestral", "dpmpp_2m_karras"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_an_adapter_at_strength_0_is_the_base_bit_for_bit(
    opened: Bundle, loaded: Adapter, params: SamplingParams, scheduler: SchedulerName, guidance: float
) -> None:
    params = replace(params, scheduler=scheduler, guidance_scale=guidance)
    base = draw(opened, None, params)
    np.testing.assert_array_equal(base, draw(opened, loaded, params, strength=0.0))
    assert (base != draw(opened, loaded, params)).any()


def test_without_guidance_there_is_one_row_and_no_negative(opened: Bundle, loaded: Adapter, params: SamplingParams) -> None:
    params = replace(params, guidance_scale=1.0)
    other = replace(params, negative=opened.tokenizer.encode("a dog").ids, guidance_scale=0.0)
    np.testing.assert_array_equal(draw(opened, loaded, params), draw(opened, loaded, other))
    rows = []
    unet = opened.unet

    class Counting:
        def run(self, outputs: None, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
            by_row = ("sample", "timestep", "encoder_hidden_states", "attention.lora_scale")
            rows.append([feeds[name].shape[0] for name in by_row])
            return unet.run(outputs, feeds)

    for guidance in (1.0, 1.5):
        draw(replace(opened, unet=Counting()), loaded, replace(params, guidance_scale=guidance, steps=1))  # type: ignore[arg-type]
    assert rows == [[1] * 4, [2] * 4]


def test_guidance_with_the_same_text_twice_changes_nothing(opened: Bundle, loaded: Adapter, params: SamplingParams) -> None:
    same = replace(params, negative=params.prompt)
    alone, guided = (draw(opened, loaded, replace(same, guidance_scale=scale)) for scale in (1.0, 7.0))
    assert np.abs(alone.astype(int) - guided.astype(int)).max() <= 1


def test_levels_are_rounded_halves_to_even_and_clipped(opened: Bundle, params: SamplingParams) -> None:
    values = np.array([-3, -1, 0, 1 / 255, 1, 3], np.float32)  # 0 lies at 127.5, 1/255 at 128

    class Decoder:
        def run(self, outputs: None, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
            return [np.broadcast_to(values, (1, 3, 2, 6))]

    pixels = draw(replace(opened, vae_decoder=Decoder()), None, params)  # type: ignore[arg-type]
    assert pixels[0, :, 0].tolist() == [0, 0, 128, 128, 255, 255]
    assert pixels.shape == (2, 6, 3)


def test_the_decoder_gets_latents_over_latent_scale(opened: Bundle, params: SamplingParams) -> None:
    seen = []

    class Decoder:
        def run(self, outputs: None, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
            seen.append(feeds["latents"])
            return [np.zeros((1, 3, 32, 48), np.float32)]

    made = DenoisingState(replace(opened, vae_decoder=Decoder()), [], replace(params, steps=1))  # type: ignore[arg-type]
    made.prepare()
    step(made)
    made.finish()
    np.testing.assert_array_equal(seen[0], made.sample / np.float32(0.5))


def test_errors_of_the_graphs(
    opened: Bundle,
    loaded: Adapter,
    params: SamplingParams,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    bundle: tuple[Path, BundleManifest],
) -> None:
    build_adapter(tmp_path, bundle[1].digest(), adapter_tensors(scale=8e37))
    with pytest.raises(NonFiniteError, match="step 1 of 2"):
        probe(opened, read_adapter(tmp_path, bundle[1]))
    probe(opened, loaded)
    wrong = replace(params, prompt=np.full(16, 10**6))  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="ONNX Runtime failed"):
        draw(opened, None, wrong)

    class Decoder:
        def run(self, outputs: None, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
            return [np.full((1, 3, 32, 48), np.inf, np.float32)]

    with pytest.raises(NonFiniteError, match="decoder"):
        draw(replace(opened, vae_decoder=Decoder()), None, params)  # type: ignore[arg-type]
    monkeypatch.setattr(denoising_state, "initial_noise", lambda *_: np.full((1, 4, 4, 6), np.inf, np.float32))
    with pytest.raises(NonFiniteError, match="step 1 of 4"):
        draw(opened, None, params)
