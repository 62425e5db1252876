"""Encoding once gives what encoding at every step would; the cache is keyed by content, and never stale or damaged."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.base_models.load import load_base_model
from atelier_trainer.config.option_groups import DataOptions, ModelOptions
from atelier_trainer.data.cache import TensorCache
from atelier_trainer.data.dataset import Crop, ImageDataset, load_images
from atelier_trainer.data.encode import Encoder, encode_texts
from atelier_trainer.data.encoded import Augmentation, CachedLatents, OnlineLatents
from atelier_trainer.data.process_group import ProcessGroup, SingleProcess

from ..small_base import SIZE_PX, write_small_base

PLAIN = Augmentation(SIZE_PX, SIZE_PX)


def load(folder: Path) -> BaseModel:
    return load_base_model(ModelOptions(pretrained_model_name_or_path=str(folder)))


@pytest.fixture(scope="module")
def small(small_base: Path) -> BaseModel:
    return load(small_base)


@pytest.fixture
def images(sketches: Path) -> ImageDataset:
    return load_images(DataOptions(train_data_dir=str(sketches))).select(range(20))


def encoder(base: BaseModel, folder: Path, processes: ProcessGroup | None = None, threads: int = 0) -> Encoder:
    return Encoder(base, TensorCache(folder, processes or SingleProcess()), threads=threads)


def encode(base: BaseModel, images: ImageDataset, augmentation: Augmentation, folder: Path) -> CachedLatents:
    def check_progress(done: int, total: int) -> None:
        assert 0 < done <= total

    return encoder(base, folder).encode_images(images, augmentation, check_progress)


@pytest.fixture
def forbid_encoding(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def forbid() -> None:
        monkeypatch.setattr(BaseModel, "load_vae", lambda _: pytest.fail("encoded again"))
        monkeypatch.setattr(BaseModel, "load_text_encoder", lambda *_: pytest.fail("encoded again"))

    return forbid


@pytest.mark.parametrize(("flip", "variant"), [(False, 0), (True, 1)])
def test_cached_mean_and_std_are_those_of_the_vae(
    small: BaseModel, images: ImageDataset, tmp_path: Path, flip: bool, variant: int
) -> None:
    latents = encode(small, images, Augmentation(SIZE_PX, SIZE_PX, flip), tmp_path)
    pixels = torch.from_numpy(images.pixels(17, Crop(SIZE_PX, SIZE_PX, mirror=flip)))[None]
    with torch.inference_mode():
        posterior = small.load_vae().encode(pixels).latent_dist
    assert latents.mean.shape == (20, 1 + flip, 4, 8, 8)
    torch.testing.assert_close(latents.mean[17, variant], posterior.mean[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(latents.std[17, variant], posterior.std[0], atol=1e-5, rtol=1e-4)


def test_cached_states_are_those_of_the_text_encoder(small: BaseModel, images: ImageDataset, tmp_path: Path) -> None:
    captions = encoder(small, tmp_path).encode_captions(images.captions)
    (part,) = small.family.text_encoders
    (expected,) = encode_texts(part, small.load_tokenizer(part), small.load_text_encoder(part), ["", images.captions[2]])
    torch.testing.assert_close(
        captions.of_images(torch.tensor([2]))["encoder_hidden_states"][0], expected[1], atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(captions.empty["encoder_hidden_states"][0], expected[0], atol=1e-5, rtol=1e-4)


def test_samples_follow_the_posterior(small: BaseModel, images: ImageDataset, tmp_path: Path) -> None:
    latents = encode(small, images, PLAIN, tmp_path)
    rows = torch.full((4000,), 3)
    samples = latents.sample(rows, torch.Generator().manual_seed(0)).latents / latents.scale
    torch.testing.assert_close(samples.mean(0), latents.mean[3, 0], atol=5 * float(latents.std[3].max()) / 60, rtol=0)
    torch.testing.assert_close(samples.std(0), latents.std[3, 0], atol=0, rtol=0.1)


def test_a_second_run_reads_the_cache_and_loads_no_model(
    small: BaseModel, images: ImageDataset, tmp_path: Path, forbid_encoding: Callable[..., None]
) -> None:
    latents, captions = (
        encode(small, images, PLAIN, tmp_path),
        encoder(small, tmp_path).encode_captions(images.captions),
    )
    forbid_encoding()
    again = encode(small, images, PLAIN, tmp_path)
    assert torch.equal(latents.mean, again.mean)
    assert torch.equal(latents.std, again.std)
    same = encoder(small, tmp_path).encode_captions(images.captions)
    assert torch.equal(same.conditioning["encoder_hidden_states"], captions.conditioning["encoder_hidden_states"])


@pytest.mark.parametrize("change", ["size", "flip", "crops", "images", "vae"])
def test_any_other_content_gets_another_cache_file(small: BaseModel, images: ImageDataset, tmp_path: Path, change: str) -> None:
    encode(small, images.select(range(5)), Augmentation(SIZE_PX, 8), tmp_path / "cache")
    if change == "images":
        images = images.select([1, 0, 2, 3, 4])
    base = small
    if change == "vae":
        base = load(write_small_base(tmp_path / "other"))
        config = base.folder / "vae/config.json"
        config.write_text(config.read_text() + " ")
    height, crops = SIZE_PX if change == "size" else 8, 2 if change == "crops" else 0
    augmentation = Augmentation(SIZE_PX, height, change == "flip", crops)
    encode(base, images.select(range(5)), augmentation, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("latents-*.safetensors"))) == 2
    assert not list((tmp_path / "cache").glob("*.part"))


def test_other_captions_and_unets_share_the_latents(
    small: BaseModel, images: ImageDataset, tmp_path: Path, forbid_encoding: Callable[..., None]
) -> None:
    encode(small, images, PLAIN, tmp_path / "cache")
    other = load(write_small_base(tmp_path / "other"))
    (other.folder / "unet/config.json").write_text((other.folder / "unet/config.json").read_text() + " ")
    forbid_encoding()
    encode(other, ImageDataset(images.files, ["a cat"] * len(images), images.labels), PLAIN, tmp_path / "cache")


@pytest.mark.parametrize("damage", ["cut", "changed", "other key"])
def test_a_damaged_cache_file_is_rebuilt(
    small: BaseModel, images: ImageDataset, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    intact = encode(small, images, PLAIN, tmp_path).mean.clone()
    gc.collect()
    (file,) = tmp_path.glob("latents-*.safetensors")
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[:-100])
    elif damage == "changed":
        file.write_bytes(content[:-100] + bytes(100))
    else:
        encode(small, images, Augmentation(SIZE_PX, SIZE_PX, True), tmp_path / "other")
        file.write_bytes(next((tmp_path / "other").glob("latents-*.safetensors")).read_bytes())
    assert torch.equal(encode(small, images, PLAIN, tmp_path).mean, intact)
    assert "will be rebuilt" in caplog.text


def test_a_build_that_was_killed_continues_with_the_missing_parts(tmp_path: Path) -> None:
    built: list[int] = []

    def build_until_killed(part: int) -> dict[str, torch.Tensor]:
        if len(built) == 2:
            raise KeyboardInterrupt
        built.append(part)
        return {"x": torch.full((1,), part)}

    def build(part: int) -> dict[str, torch.Tensor]:
        rebuilt.append(part)
        return {"x": torch.full((1,), part)}

    cache, rebuilt = TensorCache(tmp_path, SingleProcess()), list[int]()
    with pytest.raises(KeyboardInterrupt):
        cache.get_or_build("latents", ["a"], 4, build_until_killed, lambda _: None)
    tensors = cache.get_or_build("latents", ["a"], 4, build, lambda _: None)
    assert (built, rebuilt, tensors["x"].tolist()) == ([0, 1], [2, 3], [0, 1, 2, 3])


class ThreadGroup(SingleProcess):
    """Threads as processes. They share a loaded VAE: diffusers loads one model at a time in a process."""

    def __init__(self, rank: int, barrier: threading.Barrier) -> None:
        self.process_index, self.num_processes, self._barrier = rank, barrier.parties, barrier

    def wait_for_everyone(self) -> None:
        self._barrier.wait(60)


def test_processes_build_together_and_each_gets_all_latents(
    small: BaseModel, images: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = small.load_vae()
    monkeypatch.setattr(BaseModel, "load_vae", lambda _: vae)
    alone = encode(small, images, PLAIN, tmp_path / "alone")
    barrier, latents = threading.Barrier(2), {}

    def work(rank: int) -> None:
        group = ThreadGroup(rank, barrier)
        latents[rank] = encoder(small, tmp_path / "group", group).encode_images(images, PLAIN, lambda *_: None)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert all(torch.equal(latents[rank].mean, alone.mean) for rank in range(2))


def test_images_larger_than_the_crop_get_random_crops_and_others_get_one(
    small: BaseModel, images: ImageDataset, tmp_path: Path
) -> None:
    wide = encoder(small, tmp_path, threads=2).encode_images(images, Augmentation(SIZE_PX, 8, False, 3), lambda *_: None)
    assert wide.mean.shape[1] == 3
    assert not torch.equal(wide.mean[:, 0], wide.mean[:, 1])
    assert encode(small, images, Augmentation(SIZE_PX, SIZE_PX, False, 3), tmp_path).mean.shape[1] == 1


def test_online_latents_are_augmented_each_time_by_the_generator_alone(small: BaseModel, images: ImageDataset) -> None:
    online = OnlineLatents(small.load_vae(), images, Augmentation(SIZE_PX, 8, True), 1.0)
    rows = torch.tensor([1, 1, 1])
    latents = online.sample(rows, torch.Generator().manual_seed(0)).latents
    assert latents.shape == (3, 4, 4, 8)
    assert not torch.equal(latents[0], latents[1])
    assert torch.equal(online.sample(rows, torch.Generator().manual_seed(0)).latents, latents)


def test_a_crop_position_is_a_share_of_what_is_cut_off(images: ImageDataset) -> None:
    top = images.pixels(0, Crop(SIZE_PX, 8, position=(0.5, 0.0)))
    bottom = images.pixels(0, Crop(SIZE_PX, 8, position=(0.5, 1.0)))
    whole = images.pixels(0, Crop(SIZE_PX, SIZE_PX))
    assert np.array_equal(top, whole[:, :8])
    assert np.array_equal(bottom, whole[:, 8:])
