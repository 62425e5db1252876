"""Stable Diffusion XL: whole pictures beside StableDiffusionXLPipeline, plain, with LoRA in all its parts, and in one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from atelier_contracts.manifests import BundleManifest
from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams
from atelier_infer.engine.denoising_step import DenoisingStep
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.adapter import WeightedAdapter
from atelier_infer.pipeline.bundle import Bundle, open_bundle
from atelier_infer.pipeline.noise import initial_noise
from atelier_trainer.adapter_formats.layer_names import LayerNames
from atelier_trainer.adapter_formats.write_adapter import write_adapter
from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.exchange.import_adapter import Importer, ImportOptions, Source
from atelier_trainer.export.adapter import save_pairs
from atelier_trainer.export.manifests import write_adapter_manifest
from atelier_trainer.export.parity import measure_parity
from diffusers import DDIMScheduler
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from safetensors.torch import load_file

from ...trainer.adapter_formats.lora_files import write_diffusers
from ...trainer.exported import exported_bundle
from ..tiny_bundle import read_adapter

pytestmark = [pytest.mark.parity, pytest.mark.timeout(1200)]
PROMPT, WIDTH, HEIGHT = "a red car under a tree", 24, 16


@pytest.fixture(scope="module")
def base(small_xl_base: Path) -> BaseModel:
    return load_base_model(ModelOptions(pretrained_model_name_or_path=str(small_xl_base)))


@pytest.fixture(scope="module")
def exported(base: BaseModel, bundle_cache: Path) -> tuple[Path, BundleManifest]:
    return exported_bundle(base, bundle_cache)


@pytest.fixture(scope="module")
def bundle(exported: tuple[Path, BundleManifest]) -> Bundle:
    return open_bundle(exported[0], runtime=Runtime(intra_op_threads=1))


@pytest.fixture(scope="module")
def files(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """LoRA in the UNet and both text encoders, as diffusers writes it; and the same in kohya's names."""
    folder = tmp_path_factory.mktemp("files")
    file = write_diffusers(pipeline_of(base), folder)
    prepared = Importer(base, ImportOptions("x", "x", Path("unused"))).prepare(Source(file, file.name))
    kohya = write_adapter(prepared.adapter.pairs, names_of(base), "kohya", {}, folder / "kohya.safetensors")
    return {"diffusers": file, "kohya": kohya}


def names_of(base: BaseModel) -> LayerNames:
    return Importer(base, ImportOptions("x", "x", Path("unused")))._names


def pipeline_of(base: BaseModel) -> StableDiffusionXLPipeline:
    pipeline = base.load_pipeline()
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    return pipeline


def params_of(bundle: Bundle, negative: str, **changes: Any) -> SamplingParams:
    ids = [bundle.tokenizer.encode(text).ids for text in (PROMPT, negative)]
    settings: dict[str, Any] = {
        "steps": 4,
        "guidance_scale": 4.0,
        "seed": 3,
        "width": WIDTH,
        "height": HEIGHT,
        "scheduler": "ddim",
    }
    return SamplingParams(*ids, **settings | changes)  # type: ignore[arg-type]


def expected_pixels(pipeline: StableDiffusionXLPipeline, params: SamplingParams, negative: str | None) -> np.ndarray:
    latents = torch.from_numpy(initial_noise(params.seed, 4, params.height // 2, params.width // 2))
    image = pipeline(
        PROMPT, negative_prompt=negative, num_inference_steps=params.steps, guidance_scale=params.guidance_scale,
        width=params.width, height=params.height, latents=latents, output_type="np",
    ).images[0]  # fmt: skip
    return (image * 255).round().astype(int)


def draw_together(bundle: Bundle, requests: Any) -> list[np.ndarray]:
    states = [DenoisingState(bundle, adapters, params) for adapters, params in requests]
    for state in states:
        state.prepare()
    step = DenoisingStep()
    while not states[0].done:
        assert step.step(states) == [None] * len(states)
    return [state.finish().astype(int) for state in states]


@pytest.mark.parametrize(("negative", "theirs"), [("", None), ("a house", "a house")])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_pictures_are_diffusers(base: BaseModel, bundle: Bundle, negative: str, theirs: str | None, guidance: float) -> None:
    """Without a negative prompt, its states are zeros and not those of the empty text."""
    params = params_of(bundle, negative, guidance_scale=guidance)
    (pixels,) = draw_together(bundle, [([], params)])
    expected = expected_pixels(pipeline_of(base), params, theirs)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert expected.std() > 5
    assert np.abs(pixels - expected).max() <= 1


def test_the_empty_text_is_not_zeros(base: BaseModel, bundle: Bundle) -> None:
    params = params_of(bundle, "")
    pipeline = pipeline_of(base)
    assert np.abs(expected_pixels(pipeline, params, None) - expected_pixels(pipeline, params, "")).max() > 1


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_lora_in_all_parts_is_diffusers(
    base: BaseModel, exported: tuple[Path, BundleManifest], bundle: Bundle, files: dict[str, Path], format: str, tmp_path: Path
) -> None:
    """Kohya's file is read by diffusers' own mapping from the original code's names."""
    file, manifest = files[format], exported[1]
    importer = Importer(base, ImportOptions("x", "x", Path("unused")))
    pairs = importer.prepare(Source(file, file.name)).adapter.pairs
    assert {name.partition(".")[0] for name in pairs} == {"unet", "text_encoder", "text_encoder_2"}
    weights = save_pairs(pairs, base.family.pipeline_class, tmp_path)
    write_adapter_manifest(weights, manifest, pairs, run_id="r", dataset_digest=None)
    adapter = read_adapter(tmp_path, manifest)
    stock = pipeline_of(base)
    stock.load_lora_weights(file)
    params = params_of(bundle, "a house")
    requests = [([WeightedAdapter(adapter)], params), ([], params), ([WeightedAdapter(adapter)], params_of(bundle, "", seed=9))]
    with_lora, plain, other = draw_together(bundle, requests)
    assert np.abs(with_lora - expected_pixels(stock, params, "a house")).max() <= 1
    assert np.abs(other - expected_pixels(stock, requests[2][1], None)).max() <= 1
    assert np.abs(plain - expected_pixels(pipeline_of(base), params, "a house")).max() <= 1
    assert np.abs(with_lora - plain).max() > 10
    models = {part: stock.components[part].eval() for part in ("unet", "text_encoder", "text_encoder_2")}
    finite, error = measure_parity(models, base.family, pairs, exported[0], manifest)
    assert finite and 0 < error < 1e-4


def test_kohyas_file_has_the_names_of_the_original_code(files: dict[str, Path]) -> None:
    keys = set(load_file(files["kohya"]))
    assert {
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k.lora_down.weight",
        "lora_unet_middle_block_2_in_layers_2.lora_up.weight",
        "lora_unet_output_blocks_2_2_conv.alpha",
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight",
        "lora_te2_text_model_encoder_layers_1_mlp_fc2.lora_up.weight",
    } <= keys
