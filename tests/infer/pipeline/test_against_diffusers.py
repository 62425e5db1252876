"""The same prompt, seed and adapter through the trainer's export and this service, and through diffusers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from atelier_contracts import names
from atelier_contracts.styles import SchedulerName
from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams
from atelier_infer.engine.denoising_step import DenoisingStep
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.adapter import Adapter, WeightedAdapter
from atelier_infer.pipeline.bundle import Bundle, open_bundle
from atelier_infer.pipeline.noise import initial_noise
from atelier_infer.pipeline.schedulers import NoiseSchedule, make_scheduler
from atelier_trainer.adapter_formats.adapter_weights import LoraPair
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.export.adapter import inject_lora, lora_pairs, save_weights
from atelier_trainer.export.manifests import write_adapter_manifest
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from diffusers.configuration_utils import FrozenDict
from diffusers.schedulers import scheduling_euler_ancestral_discrete as ancestral
from peft import LoraConfig
from safetensors.numpy import save_file

from ...trainer.exported import exported_bundle
from ..tiny_bundle import read_adapter
from .test_schedulers import SD21

SCHEDULERS = {
    "ddim": lambda config: DDIMScheduler.from_config(config),
    "euler": lambda config: EulerDiscreteScheduler.from_config(config),
    "euler_ancestral": lambda config: EulerAncestralDiscreteScheduler.from_config(config),
    "dpmpp_2m_karras": lambda config: DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True),
}
RANK, ALPHA = 3, 6.0
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]


@pytest.fixture(scope="module")
def pipeline_and_bundle(
    small_base: Path, bundle_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[StableDiffusionPipeline, FrozenDict, Bundle, Adapter]]:
    """diffusers' pipeline with an adapter in it, and the opened export of both."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the graphs are tiny
    base = load_base_model(ModelOptions(pretrained_model_name_or_path=str(small_base)))
    pipeline = base.load_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    folder, manifest = exported_bundle(base, bundle_cache)
    for parameter in inject_lora(pipeline.unet, RANK, ALPHA):
        torch.nn.init.normal_(parameter, std=0.3)
    adapter = tmp_path_factory.mktemp("adapter")
    weights = save_weights(pipeline.unet, adapter)
    write_adapter_manifest(weights, manifest, lora_pairs(pipeline.unet), run_id="r", dataset_digest="d" * 64)
    yield (
        pipeline,
        pipeline.scheduler.config,
        open_bundle(folder, runtime=Runtime(intra_op_threads=1)),
        read_adapter(adapter, manifest),
    )
    torch.set_num_threads(threads)


def draw(bundle: Bundle, adapters: list[WeightedAdapter], params: SamplingParams) -> DenoisingState:
    made, batch = DenoisingState(bundle, adapters, params), DenoisingStep()
    made.prepare()
    while not made.done:
        assert batch.step([made]) == [None]
    return made


@pytest.fixture
def our_noise(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives diffusers' ancestral sampler the fresh noise that ours adds for a seed."""

    def use(seed: int) -> None:
        source = make_scheduler("euler_ancestral", NoiseSchedule(**SD21), 2, seed)
        monkeypatch.setattr(ancestral, "randn_tensor", lambda shape, **_: torch.from_numpy(source.noise(tuple(shape))))  # type: ignore[attr-defined]

    return use


def theirs(pipeline: StableDiffusionPipeline, params: SamplingParams, prompt: str, negative: str) -> np.ndarray:
    """What diffusers draws: float [height, width, 3] in 0 … 255, rounded."""
    latents = initial_noise(params.seed, 4, params.height // 2, params.width // 2)
    image = pipeline(
        prompt,
        negative_prompt=negative,
        num_inference_steps=params.steps,
        guidance_scale=params.guidance_scale,
        width=params.width,
        height=params.height,
        latents=torch.from_numpy(latents),
        output_type="np",
    ).images[0]
    return (image * 255).round().astype(int)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("with_adapter", [True, False])
def test_images_are_diffusers(
    pipeline_and_bundle: tuple[StableDiffusionPipeline, FrozenDict, Bundle, Adapter],
    our_noise: Callable[..., None],
    scheduler: SchedulerName,
    guidance: float,
    with_adapter: bool,
) -> None:
    pipeline, config, bundle, adapter = pipeline_and_bundle
    our_noise(5)
    pipeline.scheduler = SCHEDULERS[scheduler](config)
    (pipeline.unet.enable_adapters if with_adapter else pipeline.unet.disable_adapters)()
    width, height, prompt, negative = 24, 16, "a cat, a dog " * 4, "a bird"
    ids = (bundle.tokenizer.encode(text).ids for text in (prompt, negative))
    params = SamplingParams(*ids, 6, guidance, seed=5, width=width, height=height, scheduler=scheduler)  # type: ignore[arg-type, call-arg, misc]
    expected = theirs(pipeline, params, prompt, negative)
    pixels = draw(bundle, [WeightedAdapter(adapter)] if with_adapter else [], params).finish()
    assert pixels.shape == (height, width, 3)
    assert expected.std() > 5  # not a flat image
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_the_exported_schedule_is_read(
    pipeline_and_bundle: tuple[StableDiffusionPipeline, FrozenDict, Bundle, Adapter],
) -> None:
    pipeline, _, bundle, _ = pipeline_and_bundle
    products = pipeline.scheduler.alphas_cumprod.numpy()
    np.testing.assert_allclose(bundle.schedule.alphas_cumprod(), products, rtol=1e-6)
    assert json.loads(bundle.schedule.model_dump_json())["prediction_type"] == "v_prediction"
    assert "attention.lora_scale" in {item.name for item in bundle.unet.get_inputs()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_an_adapter_at_strength_0_is_the_base_bit_for_bit(
    pipeline_and_bundle: tuple[StableDiffusionPipeline, FrozenDict, Bundle, Adapter], guidance: float
) -> None:
    _, _, bundle, adapter = pipeline_and_bundle
    ids = bundle.tokenizer.encode("a cat").ids
    params = SamplingParams(ids, bundle.tokenizer.encode("").ids, 3, guidance, seed=5, width=16, height=16, scheduler="ddim")
    latents = [
        draw(bundle, adapters, params).sample for adapters in ([], [WeightedAdapter(adapter, 0.0)], [WeightedAdapter(adapter)])
    ]
    np.testing.assert_array_equal(latents[0], latents[1])
    assert np.abs(latents[0] - latents[2]).max() > 0.01


def test_several_adapters_in_one_batch_are_torch_peft_one_by_one(
    pipeline_and_bundle: tuple[StableDiffusionPipeline, FrozenDict, Bundle, Adapter],
    our_noise: Callable[..., None],
    tmp_path: Path,
) -> None:
    """Ranks 4, 8 and 16, a blend, a scale and none, joining and leaving one batch, against diffusers with peft, each alone."""
    pipeline, config, bundle, _ = pipeline_and_bundle
    pipeline.unet.enable_adapters()
    loaded = {}
    for rank in (4, 8, 16):
        name = f"rank {rank}"
        known = [layer for group in bundle.manifest.lora["unet"].values() for layer in group]
        pipeline.unet.add_adapter(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=known), name.replace(" ", "_"))
        pipeline.unet.set_adapter(name.replace(" ", "_"))
        torch.manual_seed(rank)
        tensors, pairs = {}, {}
        for layer in known:
            module, weights = pipeline.unet.get_submodule(layer), []
            for half in "AB":
                parameter = getattr(module, f"lora_{half}")[name.replace(" ", "_")].weight
                torch.nn.init.normal_(parameter, std=0.1)
                weights.append(parameter.detach().clone())
                tensors[f"unet.{layer}.lora_{half}.weight"] = weights[-1].numpy()
            pairs[f"unet.{layer}"] = LoraPair(*weights, alpha=2.0 * rank)  # type: ignore[misc]
        folder = tmp_path / name
        folder.mkdir()
        save_file(tensors, folder / names.WEIGHTS_FILE)
        write_adapter_manifest(folder / names.WEIGHTS_FILE, bundle.manifest, pairs, run_id="r", dataset_digest="d" * 64)
        loaded[rank] = read_adapter(folder, bundle.manifest)
    mixes = [
        {4: 1.0},
        {8: 1.0},
        {16: 1.0},
        {4: 0.6, 16: 0.3},
        {8: 0.5},
        {},
    ]
    schedulers = ["ddim", "euler", "dpmpp_2m_karras", "ddim", "euler_ancestral", "euler"]
    states, expected = [], []
    for index, (adapters, scheduler) in enumerate(zip(mixes, schedulers, strict=True)):
        prompt, negative = f"a {'cat' if index % 2 else 'dog'}", "a bird"
        ids = (bundle.tokenizer.encode(text).ids for text in (prompt, negative))
        guidance = 1.0 if index == 1 else 3.0 + index / 2
        params = SamplingParams(*ids, 4 + index, guidance, seed=index, width=24, height=16, scheduler=scheduler)  # type: ignore[arg-type, call-arg, misc]
        our_noise(index)
        pipeline.scheduler = SCHEDULERS[scheduler](config)
        if adapters:
            pipeline.unet.enable_adapters()
            pipeline.unet.set_adapters([f"rank_{rank}" for rank in adapters], list(adapters.values()))
        else:
            pipeline.unet.disable_adapters()
        expected.append(theirs(pipeline, params, prompt, negative))
        states.append(
            DenoisingState(bundle, [WeightedAdapter(loaded[rank], weight) for rank, weight in adapters.items()], params)
        )
    pipeline.unet.delete_adapters([f"rank_{rank}" for rank in loaded])
    batch, waiting = DenoisingStep(), list(states)
    going: list[Any] = []
    for state in states:
        state.prepare()
    while waiting or going:
        going += [waiting.pop(0)] if waiting else []  # one more joins at every step
        assert batch.step(going) == [None] * len(going)
        going = [state for state in going if not state.done]
    for state, wanted in zip(states, expected, strict=True):
        assert wanted.std() > 5
        assert np.abs(state.finish().astype(int) - wanted).max() <= 1
