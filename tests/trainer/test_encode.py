"""Encoding once gives what encoding at every step would, and is found again by content alone."""

import pytest
import torch
from atelier_trainer.encode import encode, text_states
from atelier_trainer.objective import validation_digest, validation_loss
from atelier_trainer.options import TrainOptions
from atelier_trainer.pictures import load_pictures


@pytest.fixture
def pictures(sketches, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return load_pictures(TrainOptions(train_data_dir=str(sketches))).take(range(6))


def silent(done, total):
    assert 0 < done <= total


def test_mean_std_and_states_are_the_models_own(base, pictures, tmp_path):
    encoded = encode(base, pictures, 128, 128, True, tmp_path, silent)
    pixels = torch.from_numpy(pictures.pixels(2, 128, 128, mirror=True))[None]
    with torch.inference_mode():
        posterior = base.pipeline.vae.encode(pixels).latent_dist
        states = text_states(base, [pictures.captions[2]])[0]
    assert encoded.mean.shape == (6, 2, 8, 16, 16)
    torch.testing.assert_close(encoded.mean[2, 1], posterior.mean[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoded.std[2, 1], posterior.std[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoded.states[encoded.caption[2]], states, atol=1e-5, rtol=1e-4)


def test_the_second_time_nothing_is_encoded(base, pictures, tmp_path, monkeypatch):
    first = encode(base, pictures, 128, 128, False, tmp_path, silent)
    monkeypatch.setattr(base.pipeline.vae, "encode", lambda *_: pytest.fail("encoded again"))
    second = encode(base, pictures, 128, 128, False, tmp_path, silent)
    assert all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in ("mean", "std", "states", "caption", "empty")
    )


@pytest.mark.parametrize("change", ["size", "flip", "pictures", "captions"])
def test_anything_else_is_another_file(base, pictures, tmp_path, change):
    encode(base, pictures, 128, 128, False, tmp_path, silent)
    if change == "captions":
        pictures = type(pictures)(pictures.files, ["a cat", *pictures.captions[1:]], pictures.labels)
    if change == "pictures":
        pictures = pictures.take(range(5))
    encode(base, pictures, 96 if change == "size" else 128, 128, change == "flip", tmp_path, silent)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert not list(tmp_path.glob("*.part"))


def test_the_validation_loss_depends_on_weights_alone(base, pictures, tmp_path):
    encoded = encode(base, pictures, 128, 128, False, tmp_path, silent)
    torch.manual_seed(1)
    first = validation_loss(base.pipeline.unet, base.noise, encoded)
    torch.manual_seed(2)
    torch.randn(5)
    assert validation_loss(base.pipeline.unet, base.noise, encoded) == first
    with torch.no_grad():
        base.pipeline.unet.conv_out.bias += 0.1
    assert validation_loss(base.pipeline.unet, base.noise, encoded) != first


def test_the_validation_digest_names_what_was_measured_on():
    digests = {
        validation_digest("a", "b", 128, 128),
        validation_digest("c", "b", 128, 128),
        validation_digest("a", "c", 128, 128),
        validation_digest("a", "b", 96, 128),
    }
    assert len(digests) == 4
