"""A checkpoint in one file becomes the base model that it was written from, or is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from atelier_trainer.__main__ import main
from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.errors import BaseModelError
from safetensors.torch import load_file, save_file

from ..adapter_formats.lora_files import draw, load, write_diffusers
from .original_checkpoint import Tensors, vae_tensors, write_checkpoint

VAE_FLAG = "pretrained_vae_model_name_or_path"


@pytest.fixture
def open_file(tmp_path: Path) -> Any:
    def run(file: Path, config: Path | None, **flags: Any) -> BaseModel:
        options = ModelOptions(
            pretrained_model_name_or_path=str(file), single_file_config=str(config) if config else None, **flags
        )
        return load_base_model(options, tmp_path / "cache")

    return run


@pytest.mark.parametrize("name", ["small_base", "small_xl_base"])
def test_it_draws_what_the_folder_draws_that_it_was_written_from(
    request: pytest.FixtureRequest, open_file: Any, tmp_path: Path, name: str
) -> None:
    folder: Path = request.getfixturevalue(name)
    original = load_base_model(ModelOptions(pretrained_model_name_or_path=str(folder))).load_pipeline()
    base = open_file(write_checkpoint(original, tmp_path / "ink.safetensors"), folder)
    assert (base.name, base.revision, base.family.name) == ("ink", None, "sdxl" if name == "small_xl_base" else "sd")
    converted = base.load_pipeline()
    for part, model in original.components.items():
        if isinstance(model, torch.nn.Module):
            torch.testing.assert_close(dict(converted.components[part].state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    assert torch.equal(draw(converted), draw(original))


def test_half_precision_is_kept_on_disk_and_computed_with_in_float32(small_base: Path, open_file: Any, tmp_path: Path) -> None:
    base = open_file(write_checkpoint(load(small_base), tmp_path / "half.safetensors", dtype=torch.float16), small_base)
    (weights,) = (base.folder / "unet").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    assert {parameter.dtype for parameter in base.load_unet().parameters()} == {torch.float32}


def test_it_is_converted_once(small_base: Path, open_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_checkpoint(load(small_base), tmp_path / "ink.safetensors")
    first = open_file(file, small_base)
    moved = file.rename(tmp_path / "other.safetensors")
    monkeypatch.setattr("shutil.copytree", lambda *_, **__: pytest.fail("converted again"))
    again = open_file(moved, small_base)
    assert (again.folder, again.name) == (first.folder, "other")


def test_the_prediction_type_is_the_flags_the_files_or_the_configurations(
    small_base: Path, open_file: Any, tmp_path: Path
) -> Any:
    epsilon = tmp_path / "epsilon"
    shutil.copytree(small_base, epsilon)
    scheduler = epsilon / "scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("v_prediction", "epsilon"))
    plain = write_checkpoint(load(small_base), tmp_path / "plain.safetensors")
    says_v = tmp_path / "says-v.safetensors"
    save_file(load_file(plain) | {"v_pred": torch.zeros(0)}, says_v)

    def prediction_type(file: Path, **flags: Any) -> str:
        return str(open_file(file, epsilon, **flags).noise_schedule.config.prediction_type)

    assert prediction_type(plain) == "epsilon"
    assert prediction_type(says_v) == "v_prediction"
    assert prediction_type(plain, prediction_type="v_prediction") == "v_prediction"


def test_weights_never_come_from_the_configuration(small_base: Path, open_file: Any, tmp_path: Path) -> None:
    file = write_checkpoint(load(small_base), tmp_path / "ink.safetensors")
    tensors = load_file(file)
    dropped = next(key for key in tensors if key.endswith("layers.1.mlp.fc1.weight"))
    del tensors[dropped]
    save_file(tensors, file)
    with pytest.raises(BaseModelError, match=r"1 tensors of the text_encoder are missing, for example .*fc1.weight"):
        open_file(file, small_base)
    assert list((tmp_path / "cache/bases").glob("*/")) == [], "nothing half-converted is left"


def test_a_file_without_a_vae_needs_one(small_base: Path, open_file: Any, tmp_path: Path) -> None:
    pipeline = load(small_base)
    file = write_checkpoint(pipeline, tmp_path / "ink.safetensors", vae=False)
    with pytest.raises(BaseModelError, match=f"vae missing; give a VAE with --{VAE_FLAG}"):
        open_file(file, small_base)
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.bias += 0.25
    save_file(vae_tensors(pipeline.vae), tmp_path / "bright.safetensors")
    pipeline.vae.save_pretrained(tmp_path / "bright")
    for vae in ("bright.safetensors", "bright"):
        base = open_file(file, small_base, **{VAE_FLAG: str(tmp_path / vae)})
        torch.testing.assert_close(draw(base.load_pipeline()), draw(pipeline), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: {"lora_unet_x.lora_down.weight": torch.zeros(1)},
            "has no key that begins with 'model.diffusion_model.'",
        ),
        (lambda tensors: {key: one for key, one in tensors.items() if "cond_stage" not in key}, "lacks text encoders"),
        (
            lambda tensors: tensors | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(16, 9, 3, 3)},
            "takes 9 channels, as for inpainting",
        ),
        (lambda tensors: tensors | {"edm_mean": torch.zeros(1)}, "EDM"),
        (lambda tensors: {key: one for key, one in tensors.items() if "attn2" not in key}, "no attention to a text"),
        (
            lambda tensors: tensors | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(16)},
            "no first convolution",
        ),
        (lambda tensors: tensors | {"model.diffusion_model.extra.weight": torch.zeros(1)}, "tensors in the file and"),
        (lambda tensors: {key: one.to(torch.float8_e4m3fn) for key, one in tensors.items()}, "they are F8_E4M3"),
        (
            lambda tensors: tensors | {"model.diffusion_model.out.2.bias": torch.zeros(7)},
            "does not fit its configuration",
        ),
    ],
)
def test_what_is_no_base_model_is_refused_in_one_line(
    small_base: Path, open_file: Any, tmp_path: Path, change: Callable[[Tensors], Tensors], message: str
) -> None:
    file = write_checkpoint(load(small_base), tmp_path / "ink.safetensors")
    save_file(change(load_file(file)), file)
    with pytest.raises(BaseModelError, match=message) as refusal:
        open_file(file, small_base)
    assert "\n" not in str(refusal.value)
    assert "ink.safetensors" in str(refusal.value)


def test_a_pickle_is_never_opened(open_file: Any, small_base: Path, tmp_path: Path) -> None:
    (tmp_path / "ink.ckpt").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(BaseModelError, match=r"is a pickle, which can run code and is never loaded"):
        open_file(tmp_path / "ink.ckpt", small_base)
    (tmp_path / "ink.safetensors").write_bytes(b"\x80\x02}q\x00." * 9)
    with pytest.raises(BaseModelError, match="not a safetensors file"):
        open_file(tmp_path / "ink.safetensors", small_base)


def test_a_kind_that_was_never_published_needs_a_configuration(open_file: Any, small_base: Path, tmp_path: Path) -> None:
    file = write_checkpoint(load(small_base), tmp_path / "ink.safetensors")
    with pytest.raises(BaseModelError, match=r"name a diffusers folder or a hub id .* as --single_file_config"):
        open_file(file, None)


def test_a_vae_of_another_family_is_refused(small_base: Path, open_file: Any, tmp_path: Path) -> None:
    shutil.copytree(small_base / "vae", tmp_path / "vae")
    config = tmp_path / "vae/config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"scaling_factor": 0.5}))
    with pytest.raises(BaseModelError, match=r"has the latent scale 0.5; .* was trained with 0.18215"):
        open_file(small_base, None, **{VAE_FLAG: str(tmp_path / "vae")})
    config.write_text(json.dumps(content | {"latent_channels": 16}))
    with pytest.raises(BaseModelError, match=r"has 16 latent channels; .* needs 4"):
        open_file(small_base, None, **{VAE_FLAG: str(tmp_path / "vae")})


def test_import_takes_a_checkpoint_file_as_base(small_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_checkpoint(load(small_base), tmp_path / "base.safetensors")
    adapter = write_diffusers(load(small_base), tmp_path / "made")
    arguments = [f"--base={checkpoint}", f"--single_file_config={small_base}", f"--cache_dir={tmp_path / 'cache'}", "--dry_run"]
    assert main(["import", str(adapter), *arguments]) == 0
    assert "12 of text_encoder" in capsys.readouterr().err
