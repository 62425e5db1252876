"""Encoding once gives what encoding at every step would, is found again by content alone, and never stale or damaged."""

import gc
import threading

import numpy as np
import pytest
import torch
from atelier_trainer.base_model import Base, load_base
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.data import cache
from atelier_trainer.data.dataset import load_images
from atelier_trainer.data.encode import Augmentation, OnlineLatents, encode_captions, encode_images, text_states
from atelier_trainer.objective import validation_digest, validation_loss

from .small_base import SIZE_PX, write_small_base

VIEWS = Augmentation(SIZE_PX, SIZE_PX)


@pytest.fixture(scope="module")
def small(small_base) -> Base:
    return load_base(str(small_base), None, None)


@pytest.fixture
def images(sketches):
    return load_images(TrainOptions(train_data_dir=str(sketches))).take(range(20))


def silent(done, total):
    assert 0 < done <= total


@pytest.fixture
def no_vae(monkeypatch):
    def refuse():
        monkeypatch.setattr(Base, "vae", lambda _: pytest.fail("encoded again"))
        monkeypatch.setattr(Base, "text_encoder", lambda _: pytest.fail("encoded again"))

    return refuse


@pytest.mark.parametrize(("flip", "variant"), [(False, 0), (True, 1)])
def test_mean_and_std_are_the_models_own(small, images, tmp_path, flip, variant):
    kept = encode_images(small, images, Augmentation(SIZE_PX, SIZE_PX, flip), tmp_path, silent)
    pixels = torch.from_numpy(images.pixels(17, SIZE_PX, SIZE_PX, mirror=flip))[None]
    with torch.inference_mode():
        posterior = small.vae().encode(pixels).latent_dist
    assert kept.mean.shape == (20, 1 + flip, 4, 8, 8)
    torch.testing.assert_close(kept.mean[17, variant], posterior.mean[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(kept.std[17, variant], posterior.std[0], atol=1e-5, rtol=1e-4)


def test_states_are_the_models_own(small, images, tmp_path):
    words = encode_captions(small, images.captions, tmp_path)
    wanted = text_states(small.tokenizer(), small.text_encoder(), ["", images.captions[2]])
    torch.testing.assert_close(words.of(torch.tensor([2]))[0], wanted[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(words.empty, wanted[0], atol=1e-5, rtol=1e-4)


def test_a_sample_is_the_posteriors(small, images, tmp_path):
    kept = encode_images(small, images, VIEWS, tmp_path, silent)
    rows = torch.full((4000,), 3)
    drawn = kept.sample(rows, torch.Generator().manual_seed(0)) / kept.scale
    torch.testing.assert_close(drawn.mean(0), kept.mean[3, 0], atol=5 * float(kept.std[3].max()) / 60, rtol=0)
    torch.testing.assert_close(drawn.std(0), kept.std[3, 0], atol=0, rtol=0.1)


def test_the_second_time_nothing_is_loaded_or_encoded(small, images, tmp_path, no_vae):
    first, words = (
        encode_images(small, images, VIEWS, tmp_path, silent),
        encode_captions(small, images.captions, tmp_path),
    )
    no_vae()
    again = encode_images(small, images, VIEWS, tmp_path, silent)
    assert torch.equal(first.mean, again.mean)
    assert torch.equal(first.std, again.std)
    assert torch.equal(encode_captions(small, images.captions, tmp_path).states, words.states)


@pytest.mark.parametrize("change", ["size", "flip", "crops", "images", "vae"])
def test_anything_else_is_another_file(small, images, tmp_path, change):
    encode_images(small, images.take(range(5)), Augmentation(SIZE_PX, 8), tmp_path / "cache", silent)
    if change == "images":
        images = images.take([1, 0, 2, 3, 4])
    base = small
    if change == "vae":
        base = load_base(str(write_small_base(tmp_path / "other")), None, None)
        config = base.folder / "vae/config.json"
        config.write_text(config.read_text() + " ")
    views = Augmentation(SIZE_PX, SIZE_PX if change == "size" else 8, change == "flip", 2 if change == "crops" else 0)
    encode_images(base, images.take(range(5)), views, tmp_path / "cache", silent)
    assert len(list((tmp_path / "cache").glob("latents-*.safetensors"))) == 2
    assert not list((tmp_path / "cache").glob("*.part"))


def test_captions_and_other_unets_share_the_latents(small, images, tmp_path, no_vae):
    encode_images(small, images, VIEWS, tmp_path / "cache", silent)
    other = load_base(str(write_small_base(tmp_path / "other")), None, None)
    (other.folder / "unet/config.json").write_text((other.folder / "unet/config.json").read_text() + " ")
    no_vae()
    renamed = type(images)(images.files, ["a cat"] * len(images), images.labels)
    encode_images(other, renamed, VIEWS, tmp_path / "cache", silent)


@pytest.mark.parametrize("damage", ["cut", "changed", "other key"])
def test_a_damaged_file_is_made_anew(small, images, tmp_path, damage, caplog):
    right = encode_images(small, images, VIEWS, tmp_path, silent).mean.clone()
    gc.collect()
    (file,) = tmp_path.glob("latents-*.safetensors")
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[:-100])
    elif damage == "changed":
        file.write_bytes(content[:-100] + bytes(100))
    else:
        encode_images(small, images, Augmentation(SIZE_PX, SIZE_PX, True), tmp_path / "other", silent)
        file.write_bytes(next((tmp_path / "other").glob("latents-*.safetensors")).read_bytes())
    assert torch.equal(encode_images(small, images, VIEWS, tmp_path, silent).mean, right)
    assert "is made anew" in caplog.text


def test_a_build_that_was_killed_goes_on(tmp_path):
    built = []

    def build(part):
        if len(built) == 2:
            raise KeyboardInterrupt
        built.append(part)
        return {"x": torch.full((1,), part)}

    with pytest.raises(KeyboardInterrupt):
        cache.cached(tmp_path, "latents", ["a"], 4, build, cache.SingleProcess(), lambda _: None)
    rest = []
    whole = cache.cached(
        tmp_path,
        "latents",
        ["a"],
        4,
        lambda p: rest.append(p) or {"x": torch.full((1,), p)},
        cache.SingleProcess(),
        lambda _: None,
    )
    assert (built, rest, whole["x"].tolist()) == ([0, 1], [2, 3], [0, 1, 2, 3])


class Team:
    """Threads as processes. They share a loaded VAE: diffusers loads one model at a time in a process."""

    def __init__(self, rank, barrier):
        self.process_index, self.num_processes, self._barrier = rank, barrier.parties, barrier

    def wait_for_everyone(self):
        self._barrier.wait(60)


def test_processes_build_together_and_all_get_the_whole(small, images, tmp_path, monkeypatch):
    vae = small.vae()
    monkeypatch.setattr(Base, "vae", lambda _: vae)
    alone = encode_images(small, images, VIEWS, tmp_path / "alone", silent)
    barrier, got = threading.Barrier(2), {}

    def work(rank):
        got[rank] = encode_images(small, images, VIEWS, tmp_path / "team", lambda *_: None, crew=Team(rank, barrier))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert all(torch.equal(got[rank].mean, alone.mean) for rank in range(2))


def test_random_crops_are_kept_where_there_is_room_and_one_where_there_is_none(small, images, tmp_path):
    wide = encode_images(small, images, Augmentation(SIZE_PX, 8, False, 3), tmp_path, silent, threads=2)
    assert wide.mean.shape[1] == 3
    assert not torch.equal(wide.mean[:, 0], wide.mean[:, 1])
    assert encode_images(small, images, Augmentation(SIZE_PX, SIZE_PX, False, 3), tmp_path, silent).mean.shape[1] == 1


def test_fresh_latents_crop_and_mirror_anew(small, images):
    fresh = OnlineLatents(small.vae(), images, Augmentation(SIZE_PX, 8, True), 1.0)
    rows, draw = torch.tensor([1, 1, 1]), torch.Generator().manual_seed(0)
    latents = fresh.sample(rows, draw)
    assert latents.shape == (3, 4, 4, 8)
    assert not torch.equal(latents[0], latents[1])
    assert torch.equal(fresh.sample(rows, torch.Generator().manual_seed(0)), latents)


def test_the_validation_loss_depends_on_weights_alone(small, images, tmp_path):
    kept, words = encode_images(small, images, VIEWS, tmp_path, silent), encode_captions(small, images.captions, tmp_path)
    unet = small.unet()
    torch.manual_seed(1)
    first = validation_loss(unet, small.noise, kept, words)
    torch.manual_seed(2)
    torch.randn(5)
    assert validation_loss(unet, small.noise, kept, words) == first
    halves = [torch.zeros(()), torch.zeros(())]

    def summed(sums):
        halves[:] = [halves[1], sums]
        return halves[0] + halves[1]

    validation_loss(unet, small.noise, kept, words, share=(0, 2), add=summed)
    assert validation_loss(unet, small.noise, kept, words, share=(1, 2), add=summed) == first
    with torch.no_grad():
        unet.conv_out.bias += 0.1
    assert validation_loss(unet, small.noise, kept, words) != first


def test_the_validation_digest_names_what_was_measured_on():
    digests = {
        validation_digest("a", "b", 128, 128),
        validation_digest("c", "b", 128, 128),
        validation_digest("a", "c", 128, 128),
        validation_digest("a", "b", 96, 128),
    }
    assert len(digests) == 4


def test_places_are_shares_of_the_room(images):
    left = images.pixels(0, SIZE_PX, 8, False, (0.5, 0.0))
    right = images.pixels(0, SIZE_PX, 8, False, (0.5, 1.0))
    whole = images.pixels(0, SIZE_PX, SIZE_PX, False)
    assert np.array_equal(left, whole[:, :8])
    assert np.array_equal(right, whole[:, 8:])
