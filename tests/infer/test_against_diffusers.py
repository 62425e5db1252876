"""The same prompt, seed and adapter through the trainer's export and this service, and through diffusers."""

import json

import numpy as np
import pytest
import torch
from atelier_contracts import names
from atelier_infer.adapter import load_adapter
from atelier_infer.bundle import open_bundle
from atelier_infer.drawing import Drawing, Plan
from atelier_infer.noise import initial_noise
from atelier_trainer.adapter import describe, inject, save_weights
from atelier_trainer.bundle import export_bundle
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .tiny_bundle import vocabulary

SCHEDULERS = {
    "ddim": lambda config: DDIMScheduler.from_config(config),
    "euler": lambda config: EulerDiscreteScheduler.from_config(config),
    "dpmpp_2m_karras": lambda config: DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True),
}
RANK, ALPHA = 3, 6.0
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]


def tiny_pipeline() -> StableDiffusionPipeline:
    """A Stable Diffusion of a few thousand random numbers."""
    torch.manual_seed(0)
    words, merges = vocabulary()
    blocks = {"block_out_channels": (16, 32), "norm_num_groups": 8}
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **blocks,
    )
    vae = AutoencoderKL(
        latent_channels=4,
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **blocks,
    )
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=words["<|startoftext|>"],
        eos_token_id=words["<|endoftext|>"],
    )
    schedule = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",  # spelled out: from_config replaces what was left to its default
        prediction_type="v_prediction",
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(vocab=words, merges=merges, model_max_length=24),
        unet=unet,
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="module")
def pipeline_and_bundle(tmp_path_factory):
    """diffusers' pipeline with an adapter in it, and the opened export of both."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the graphs are tiny
    pipeline, folder = tiny_pipeline(), tmp_path_factory.mktemp("exported")
    pipeline.set_progress_bar_config(disable=True)
    manifest = export_bundle(pipeline, folder, base="tiny", revision=None, source="0" * 64)
    for parameter in inject(pipeline.unet, RANK, ALPHA):
        torch.nn.init.normal_(parameter, std=0.3)
    adapter = tmp_path_factory.mktemp("adapter")
    weights = save_weights(pipeline.unet, adapter)
    targets = tuple(manifest.lora_targets)
    describe(weights, manifest, rank=RANK, alpha=ALPHA, targets=targets, run_id="r", dataset_digest="d" * 64)
    yield pipeline, pipeline.scheduler.config, open_bundle(folder, intra_op_threads=1), load_adapter(adapter, manifest)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("with_adapter", [True, False])
def test_pictures_are_diffusers(pipeline_and_bundle, scheduler, guidance, with_adapter):
    pipeline, config, bundle, adapter = pipeline_and_bundle
    pipeline.scheduler = SCHEDULERS[scheduler](config)
    (pipeline.unet.enable_adapters if with_adapter else pipeline.unet.disable_adapters)()
    width, height, prompt, negative = 24, 16, "a cat, a dog " * 4, "a bird"
    latents = initial_noise(5, 4, height // 2, width // 2)
    theirs = pipeline(
        prompt,
        negative_prompt=negative,
        num_inference_steps=6,
        guidance_scale=guidance,
        width=width,
        height=height,
        latents=torch.from_numpy(latents),
        output_type="np",
    ).images[0]
    ids = (bundle.prompts.read(text).ids for text in (prompt, negative))
    plan = Plan(*ids, 6, guidance, seed=5, width=width, height=height, scheduler=scheduler)
    drawing = Drawing(bundle, adapter if with_adapter else None, plan)
    drawing.begin()
    while not drawing.done:
        drawing.step()
    pixels = drawing.finish()
    expected = (theirs * 255).round().astype(int)
    assert pixels.shape == (height, width, 3)
    assert expected.std() > 5  # not a flat picture
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_the_exported_schedule_is_read(pipeline_and_bundle):
    pipeline, _, bundle, _ = pipeline_and_bundle
    products = pipeline.scheduler.alphas_cumprod.numpy()
    np.testing.assert_allclose(bundle.schedule.alphas_cumprod(), products, rtol=1e-6)
    assert json.loads(bundle.schedule.model_dump_json())["prediction_type"] == "v_prediction"
    assert names.LORA_SCALE in {item.name for item in bundle.unet.get_inputs()}


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_an_adapter_at_strength_0_is_the_base_bit_for_bit(pipeline_and_bundle, guidance):
    _, _, bundle, adapter = pipeline_and_bundle
    ids = bundle.prompts.read("a cat").ids
    plan = Plan(ids, bundle.prompts.read("").ids, 3, guidance, seed=5, width=16, height=16, scheduler="ddim")
    latents = []
    for chosen, strength in ((None, 1.0), (adapter, 0.0), (adapter, 1.0)):
        drawing = Drawing(bundle, chosen, plan, strength=strength)
        drawing.begin()
        while not drawing.done:
            drawing.step()
        latents.append(drawing._sample)
    np.testing.assert_array_equal(latents[0], latents[1])
    assert np.abs(latents[0] - latents[2]).max() > 0.01
