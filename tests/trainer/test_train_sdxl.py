"""A training on Stable Diffusion XL, from images to a registered version."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
import torch
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest, Evidence
from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import DataOptions, ModelOptions
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.data.cache import TensorCache
from atelier_trainer.data.dataset import Crop, load_images
from atelier_trainer.data.encode import Encoder
from atelier_trainer.data.encoded import Augmentation
from atelier_trainer.data.process_group import SingleProcess
from atelier_trainer.export.bundle import source_digest
from atelier_trainer.tracking.mlflow_client import TrackingClient
from diffusers import StableDiffusionXLPipeline

from .conftest import run_training

pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy


@pytest.fixture
def base(small_xl_base: Path) -> BaseModel:
    return load_base_model(ModelOptions(pretrained_model_name_or_path=str(small_xl_base)))


def test_a_training_registers_a_version_that_stock_diffusers_loads(
    small: TrainOptions, small_xl_base: Path, base: BaseModel, tmp_path: Path
) -> None:
    options = small.with_flags(
        pretrained_model_name_or_path=str(small_xl_base), register="xl", validation_prompt="a cat", num_validation_images=1,
        lora_targets="to_k,to_v,ff.net.2,conv1", export="merged",
    )  # fmt: skip
    result = run_training(options, publish=True)
    assert result.version == 1
    assert result.losses.validation_loss != result.losses.base_validation_loss
    folder = Path(options.output.output_dir)
    manifest = AdapterManifest.model_validate_json((folder / names.ADAPTER_FILE).read_text())
    evidence = Evidence.model_validate_json((folder / names.EVIDENCE_FILE).read_text())
    assert {name.rpartition(".")[2] for name in manifest.layers} == {"to_k", "to_v", "2", "conv1"}
    assert evidence.output_finite and evidence.onnx_max_error < 1e-4
    tracking = TrackingClient(str(options.tracking.tracking_uri))
    assert tracking.bundle_version(source_digest(base)) is not None
    bundle = BundleManifest.model_validate_json(tracking.bundle_manifest(manifest.bundle_digest, tmp_path))
    assert (bundle.family, list(bundle.text_encoders)) == ("sdxl", ["text_encoder", "text_encoder_2"])
    pipeline = StableDiffusionXLPipeline.from_pretrained(small_xl_base, add_watermarker=False)
    pipeline.load_lora_weights(folder)
    assert pipeline.get_active_adapters()
    client = mlflow.MlflowClient(options.tracking.tracking_uri)
    assert [file.path for file in client.list_artifacts(result.run_id, "images") if file.path.endswith(".png")]


def test_captions_are_what_the_pipeline_makes_of_them(base: BaseModel, tmp_path: Path) -> None:
    encoder = Encoder(base, TensorCache(tmp_path, SingleProcess()))
    captions = encoder.encode_captions(["a cat", "a red car"])
    pipeline = base.load_pipeline()
    states, negative, pooled, negative_pooled = pipeline.encode_prompt("a red car")
    found = captions.of_images(torch.tensor([1]))
    torch.testing.assert_close(found["encoder_hidden_states"], states, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["text_embeds"], pooled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(captions.empty["encoder_hidden_states"], negative)  # zeros
    torch.testing.assert_close(captions.empty["text_embeds"], negative_pooled)


def test_sizes_are_those_of_the_original_image_and_its_crop(base: BaseModel, sketches: Path, tmp_path: Path) -> None:
    images = load_images(DataOptions(train_data_dir=str(sketches)))
    width, height = images.size(0)
    latents = Encoder(base, TensorCache(tmp_path, SingleProcess())).encode_images(
        images, Augmentation(32, 16, flip=True, crops=3), lambda *_: None
    )
    assert latents.geometry.shape == (len(images), 6, 4)
    scaled = width * 32 // width, height * 32 // width
    assert set(map(tuple, latents.geometry[0, :, :2].tolist())) == {(height, width)}
    tops, lefts = latents.geometry[0, :, 2], latents.geometry[0, :, 3]
    assert len(set(tops.tolist())) > 1
    assert tops.min() >= 0 and tops.max() <= scaled[1] - 16
    assert set(lefts.tolist()) == {0}
    crop = Crop(32, 16, position=(0.0, 1.0))
    assert images.geometry(0, crop) == (height, width, scaled[1] - 16, 0)
    ids = base.family.size_conditioning(latents.geometry[:2, 0], 32, 16)["time_ids"]
    assert ids[0].tolist() == [*latents.geometry[0, 0].tolist(), 16, 32]
