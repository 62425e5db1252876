"""Adapters of other tools in one batch: each picture is what the tool's own code draws with its own file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from atelier_contracts.manifests import BundleManifest
from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams
from atelier_infer.engine.denoising_step import DenoisingStep
from atelier_infer.onnx.providers import Runtime
from atelier_infer.pipeline.adapter import Adapter, WeightedAdapter
from atelier_infer.pipeline.bundle import Bundle, open_bundle
from atelier_trainer.adapter_formats.adapter_weights import LoraPair
from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.exchange.import_adapter import Importer, ImportOptions, Source
from atelier_trainer.export.adapter import inject_lora, lora_pairs, save_pairs
from atelier_trainer.export.manifests import write_adapter_manifest
from diffusers import DDIMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from lycoris import LycorisNetwork, create_lycoris

from ...trainer.adapter_formats.lora_files import load, randomize, to_kohya, write_diffusers
from ...trainer.exported import exported_bundle
from ..tiny_bundle import read_adapter
from .test_against_diffusers import theirs

pytestmark = [pytest.mark.parity, pytest.mark.timeout(1200)]
PROMPT, NEGATIVE, SIDE = "a red car", "a house", 16


@pytest.fixture(scope="module")
def base(small_base: Path) -> BaseModel:
    return load_base_model(ModelOptions(pretrained_model_name_or_path=str(small_base)))


@pytest.fixture(scope="module")
def bundle(base: BaseModel, bundle_cache: Path) -> tuple[BundleManifest, Bundle]:
    folder, manifest = exported_bundle(base, bundle_cache)
    return manifest, open_bundle(folder, runtime=Runtime(intra_op_threads=1))


def pipeline_of(base: BaseModel) -> StableDiffusionPipeline:
    pipeline = load(base.folder)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def registered(base: BaseModel, manifest: BundleManifest, pairs: dict[str, LoraPair], folder: Path) -> Adapter:
    """As the trainer writes it and infer reads it."""
    folder.mkdir()
    weights = save_pairs(pairs, base.family.pipeline_class, folder)
    write_adapter_manifest(weights, manifest, pairs, run_id="r", dataset_digest=None)
    return read_adapter(folder, manifest)


def imported(base: BaseModel, manifest: BundleManifest, file: Path, folder: Path) -> Adapter:
    prepared = Importer(base, ImportOptions("x", "x", Path("unused"))).prepare(Source(file, file.name))
    return registered(base, manifest, prepared.adapter.pairs, folder)  # type: ignore[arg-type]


def lycoris_file(base: BaseModel, kind: str, target: Path) -> StableDiffusionPipeline:
    """A file that LyCORIS saved, and a pipeline whose UNet runs with LyCORIS' own modules."""
    pipeline = pipeline_of(base)
    containers = ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"]
    LycorisNetwork.apply_preset({"target_module": containers, "lora_prefix": "lora_unet"})
    sizes = {"linear_dim": 2, "linear_alpha": 1.0, "conv_dim": 2, "conv_alpha": 1.0, "factor": 4}
    network = create_lycoris(pipeline.unet, 1.0, algo=kind, **sizes)
    network.apply_to()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    network.save_weights(str(target), torch.float32, {"ss_network_module": "lycoris.kohya"})
    return pipeline


def test_each_picture_of_a_mixed_batch_is_that_of_the_tool(
    base: BaseModel, bundle: tuple[BundleManifest, Bundle], tmp_path: Path
) -> None:
    manifest, opened = bundle
    cases: dict[str, tuple[Adapter, object]] = {}

    ours = pipeline_of(base)
    inject_lora(ours.unet, 4, 4.0)
    randomize(ours.unet, 9)
    cases["ours"] = registered(base, manifest, lora_pairs(ours.unet), tmp_path / "ours"), ours

    made = load(base.folder)
    diffusers_file = write_diffusers(made, tmp_path / "diffusers")
    stock = pipeline_of(base)
    stock.load_lora_weights(diffusers_file)
    cases["diffusers"] = imported(base, manifest, diffusers_file, tmp_path / "a"), stock

    written = write_diffusers(load(base.folder), tmp_path / "k", rank=2, seed=5)
    kohya_file = to_kohya(written, tmp_path / "k.safetensors", alpha=1.0)
    stock = pipeline_of(base)
    stock.load_lora_weights(kohya_file)
    cases["kohya"] = imported(base, manifest, kohya_file, tmp_path / "b"), stock

    for kind in ("loha", "lokr"):
        file = tmp_path / f"{kind}.safetensors"
        pipeline = lycoris_file(base, kind, file)
        cases[kind] = imported(base, manifest, file, tmp_path / kind), pipeline

    ids = [opened.tokenizer.encode(text).ids for text in (PROMPT, NEGATIVE)]
    settings = {"width": SIDE, "height": SIDE, "scheduler": "ddim"}
    params = [SamplingParams(*ids, 4, 4.0, seed=seed, **settings) for seed in range(len(cases) + 1)]  # type: ignore[arg-type, call-arg, misc]
    adapters = [[WeightedAdapter(adapter)] for adapter, _ in cases.values()] + [[]]
    states = [DenoisingState(opened, own, one) for own, one in zip(adapters, params, strict=True)]
    for state in states:
        state.prepare()
    step = DenoisingStep()
    while not states[0].done:
        assert step.step(states) == [None] * len(states)
    plain = pipeline_of(base)
    references = {name: pipeline for name, (_, pipeline) in cases.items()} | {"none": plain}
    for (name, pipeline), state, one in zip(references.items(), states, params, strict=True):
        expected = theirs(pipeline, one, PROMPT, NEGATIVE)
        difference = np.abs(state.finish().astype(int) - expected).max()
        assert difference <= 1, name
        if name != "none":
            assert np.abs(expected - theirs(plain, one, PROMPT, NEGATIVE)).max() > 10, f"{name} changes nothing"
