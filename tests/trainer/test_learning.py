"""What happens between the first step and the last: what is loaded, what is kept, what each flag of the loss does."""

from __future__ import annotations

import dataclasses
import gc
import io
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest
from atelier_trainer import objective
from atelier_trainer.base_model import load_base
from atelier_trainer.data.dataset import load_images, split
from atelier_trainer.data.encode import Augmentation, encode_captions, encode_images
from atelier_trainer.errors import BaseModelError, DataError, OptionError
from atelier_trainer.export import adapter
from atelier_trainer.tracking.runs import card_of
from atelier_trainer.train import train
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import CLIPTextModel

from .conftest import quiet
from .forks import crew, outcomes
from .small_base import SIZE_PX

pytestmark = pytest.mark.timeout(1200)  # an export takes minutes on a machine that is busy


class Loaded:
    """A Sink that notes which frozen models are in memory at each step."""

    def __init__(self):
        self.seen = []

    def metrics(self, step, values):
        if "loss" in values:
            gc.collect()
            self.seen.append([type(item).__name__ for item in gc.get_objects() if type(item) in (AutoencoderKL, CLIPTextModel)])

    def image(self, image, key, step):
        pass

    def close(self):
        pass


def history(options, name):
    run = card_of(Path(options.output_dir)).run_id
    return [(metric.step, metric.value) for metric in mlflow.MlflowClient(options.tracking_uri).get_metric_history(run, name)]


def test_vae_and_text_encoder_are_gone_during_the_steps(small):
    loaded = Loaded()
    gc.collect()
    train(dataclasses.replace(small, validation_prompt="a cat"), quiet(), sinks=[loaded], hand_over=False)
    assert loaded.seen == [[]] * small.max_train_steps


def test_the_best_weights_are_kept_and_their_loss_is_the_same_number_again(small):
    options = dataclasses.replace(small, validation_steps=1, learning_rate=0.05, lr_scheduler="constant")
    trained = train(options, quiet(), hand_over=False)
    losses = dict(history(options, "validation_loss"))
    assert trained.validation_loss == min(losses.values()) == losses[trained.step]
    base = load_base(options.pretrained_model_name_or_path, None, None)
    unet, (_, held_out) = base.unet(), split(load_images(options), options.validation_samples)
    adapter.inject(unet, rank=2, alpha=2.0)
    weights = load_file(Path(options.output_dir) / names.WEIGHTS_FILE)
    adapter.put_weights(unet, {name.removeprefix("unet."): value for name, value in weights.items()})
    cache = Path(options.cache_dir)
    kept = encode_images(base, held_out, Augmentation(SIZE_PX, SIZE_PX), cache, lambda *_: None)
    words = encode_captions(base, held_out.captions, cache)
    assert objective.validation_loss(unet, base.noise, kept, words) == pytest.approx(trained.validation_loss, rel=1e-6)
    last = train(dataclasses.replace(options, select="last"), quiet(), hand_over=False)
    assert (last.step, last.validation_loss) == (6, losses[6])


def test_the_same_seed_gives_the_same_adapter_and_another_another(small):
    content = []
    for seed in (1, 1, 2):
        train(dataclasses.replace(small, seed=seed, max_train_steps=2), quiet(), hand_over=False)
        content.append((Path(small.output_dir) / names.WEIGHTS_FILE).read_bytes())
    assert content[0] == content[1] != content[2]


def test_bf16_trains_and_is_judged_in_float32(small):
    options = dataclasses.replace(small, mixed_precision="bf16", validation_prompt="a cat", num_validation_images=1)
    assert outcomes(crew(options, 1)) == [0]
    in_bf16, (_, in_float32) = history(options, "validation_loss")[-1][1], history(options, "kept_validation_loss")[0]
    assert in_bf16 != in_float32
    assert in_bf16 == pytest.approx(in_float32, rel=0.05)
    weights = load_file(Path(options.output_dir) / names.WEIGHTS_FILE)
    assert all(value.dtype == torch.float32 for value in weights.values())


@pytest.mark.parametrize(
    "flags",
    [
        {"snr_gamma": 5.0},
        {"noise_offset": 0.1},
        {"gradient_checkpointing": True},
        {"lr_scheduler": "polynomial", "lr_warmup_steps": 1, "scale_lr": True},
        {"random_crops": 0, "height": 8},
        {"random_crops": 2, "height": 8, "dataloader_num_workers": 2},
        {"use_rslora": True, "lora_dropout": 0.2, "lora_targets": "attn2.to_k,to_v", "rank": 4},
    ],
    ids=str,
)
def test_every_way_of_learning_learns(small, flags):
    trained = train(dataclasses.replace(small, max_train_steps=2, **flags), quiet(), hand_over=False)
    assert np.isfinite(trained.validation_loss)
    assert trained.validation_loss != trained.base_validation_loss


@pytest.mark.full
def test_a_compiled_unet_learns_the_same(small):
    """A C++ compiler is needed where there is no GPU."""
    plain = train(dataclasses.replace(small, max_train_steps=2), quiet(), hand_over=False)
    compiled = train(dataclasses.replace(small, max_train_steps=2, torch_compile=True), quiet(), hand_over=False)
    assert compiled.validation_loss == pytest.approx(plain.validation_loss, rel=1e-4)
    assert compiled.validation_loss != compiled.base_validation_loss


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_snr_weights_are_those_of_the_paper(base, kind):
    schedule = type(base.noise).from_config(base.noise.config, prediction_type=kind)
    times = torch.tensor([1, 400, 999])
    snr = (schedule.alphas_cumprod / (1 - schedule.alphas_cumprod))[times]
    wanted = [min(value, 5.0) / (value + (kind == "v_prediction")) for value in snr.tolist()]
    torch.testing.assert_close(objective.snr_weights(schedule, times, 5.0), torch.tensor(wanted))


def test_tensorboard_gets_curves_and_images(small):
    options = dataclasses.replace(small, report_to="tensorboard", validation_prompt="a cat", num_validation_images=1)
    train(options, quiet(), hand_over=False)
    events = EventAccumulator(str(Path(options.output_dir) / "logs")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("validation_loss")] == [3, 6]
    assert [event.step for event in events.Images("validation_0")] == [3, 6]


def test_rslora_on_some_layers_is_what_infer_and_stock_diffusers_compute(small, small_base):
    """infer scales by the manifest's alpha / rank; diffusers reads alpha and rsLoRA from the file's metadata."""
    options = dataclasses.replace(
        small, use_rslora=True, alpha=3.0, rank=4, lora_targets="attn2.to_k,to_v", export="merged", register="rs"
    )
    trained = train(options, quiet())
    assert trained.version == 1
    out = Path(options.output_dir)
    manifest = AdapterManifest.model_validate_json((out / names.ADAPTER_FILE).read_text())
    assert manifest.alpha / manifest.rank == pytest.approx(3.0 / 2.0)
    assert {layer.rpartition(".attn")[2] for layer in manifest.targets} == {"2.to_k", "1.to_v", "2.to_v"}
    plain, stock = (StableDiffusionPipeline.from_pretrained(small_base, safety_checker=None) for _ in range(2))
    stock.load_lora_weights(out)
    draw = torch.Generator().manual_seed(0)
    sample, states = torch.randn(1, 4, 8, 8, generator=draw), torch.randn(1, 16, 16, generator=draw)
    weights = load_file(out / names.WEIGHTS_FILE)
    for layer in manifest.targets:
        module = plain.unet.get_submodule(layer)
        a, b = (weights[f"unet.{layer}.lora_{side}.weight"] for side in "AB")
        module.weight.data += manifest.alpha / manifest.rank * b @ a
    with torch.inference_mode():
        wanted = plain.unet(sample, 300, states).sample
        torch.testing.assert_close(stock.unet(sample, 300, states).sample, wanted, rtol=1e-4, atol=1e-5)
    mlflow.set_tracking_uri(options.tracking_uri)
    client = mlflow.MlflowClient(options.tracking_uri)
    run = client.get_run(trained.run_id)
    (merged,) = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{trained.run_id}' AND name = 'merged'")
    loaded = mlflow.pyfunc.load_model(merged.model_uri)
    got = loaded.predict(
        {"sample": sample.numpy(), "timestep": np.array([300.0], np.float32), "encoder_hidden_states": states.numpy()}
    )
    np.testing.assert_allclose(got["out_sample"], wanted.numpy(), rtol=1e-3, atol=1e-4)


def test_a_target_that_no_layer_has_is_refused(small):
    with pytest.raises(OptionError, match=r"no attention layer ends in 'ff.net'; there are to_q"):
        train(dataclasses.replace(small, lora_targets="ff.net"), quiet(), hand_over=False)


def test_another_prediction_type_than_the_bases_is_refused(small):
    with pytest.raises(BaseModelError, match=r"says 'v_prediction'; received 'epsilon'"):
        train(dataclasses.replace(small, prediction_type="epsilon"), quiet(), hand_over=False)


def test_a_pipeline_of_another_kind_is_refused(small_base, tmp_path):
    import shutil

    copy = tmp_path / "other"
    shutil.copytree(small_base, copy)
    index = (copy / "model_index.json").read_text()
    (copy / "model_index.json").write_text(index.replace("StableDiffusionPipeline", "StableDiffusionXLPipeline"))
    with pytest.raises(BaseModelError, match="is a StableDiffusionXLPipeline"):
        load_base(str(copy), None, None)


def test_a_hub_id_without_network_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match="is neither a folder nor found on the hub") as refusal:
        load_base("nobody/nothing-of-that-name", None, None)
    assert "\n" not in str(refusal.value)


def test_bad_images_are_left_out_and_counted_when_asked(small, sketches, tmp_path):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(sketches, data)
    bad = sorted(data.glob("**/*.png"))[3]
    bad.write_bytes(b"not an image")
    options = dataclasses.replace(small, train_data_dir=str(data), max_train_steps=1)
    with pytest.raises(DataError, match=rf"{bad.name}.*cannot be read as an image"):
        train(options, quiet(), hand_over=False)
    said = io.StringIO()
    train(dataclasses.replace(options, skip_bad=True), Console(file=said, width=200), hand_over=False)
    assert f"left out 1 of 24 images that cannot be read: {bad.name}" in said.getvalue()


def test_images_of_every_mode_become_rgb(tmp_path):
    from atelier_trainer.data.dataset import ImageDataset

    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        stream = io.BytesIO()
        Image.new(mode, (8, 8)).save(stream, "TIFF")
        assert ImageDataset([stream.getvalue()], ["x"], ["x"]).pixels(0, 8, 8, mirror=False).shape == (3, 8, 8)
