"""Reading a data set: columns, the split, undistorted crops, errors that name the file."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from atelier_trainer.config.option_groups import DataOptions
from atelier_trainer.data.dataset import Crop, ImageDataset, load_images, split
from atelier_trainer.errors import DataError
from PIL import Image


def png(width: int, height: int) -> bytes:
    """Left half black, right half white."""
    image = Image.new("RGB", (width, height), "white")
    image.paste("black", (0, 0, width // 2, height))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def single(content: bytes) -> ImageDataset:
    return ImageDataset([content], ["a cat"], ["000007.png (row 7 of sketches)"])


@pytest.fixture
def options(sketches: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DataOptions:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return DataOptions(train_data_dir=str(sketches))


def test_a_folder_is_read_in_the_order_of_its_metadata(options: DataOptions, sketches: Path) -> None:
    images = load_images(options)
    lines = [json.loads(line) for line in (sketches / "metadata.jsonl").read_text().splitlines()]
    assert images.captions == [line["text"] for line in lines]
    assert images.files[3] == (sketches / lines[3]["file_name"]).read_bytes()


def test_a_missing_column_is_reported_with_the_existing_ones(options: DataOptions) -> None:
    with pytest.raises(DataError, match=r"--caption_column 'caption' is not in .*its columns are image, text"):
        load_images(dataclasses.replace(options, caption_column="caption"))


def test_a_missing_folder_is_reported(options: DataOptions, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        load_images(dataclasses.replace(options, train_data_dir=str(tmp_path / "nowhere")))


def test_an_empty_folder_is_reported(options: DataOptions, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"cannot be loaded|is empty"):
        load_images(dataclasses.replace(options, train_data_dir=str(tmp_path / "empty")))


def test_an_unreadable_image_is_reported_by_name() -> None:
    with pytest.raises(DataError, match=r"000007\.png.*cannot be read as an image"):
        single(b"not an image").pixels(0, Crop(64, 64))


def test_skip_bad_skips_unreadable_images_and_reports_them(options: DataOptions, sketches: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(sketches, folder)
    bad = sorted(folder.glob("**/*.png"))[3]
    bad.write_bytes(b"not an image")
    reported: list[str] = []
    images = load_images(dataclasses.replace(options, train_data_dir=str(folder), skip_bad=True), reported.append)
    assert len(images) == 23
    assert reported == [f"skipped 1 of 24 images that cannot be read: {bad.name} (row 3 of data)"]


def test_images_of_every_mode_become_rgb() -> None:
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        stream = io.BytesIO()
        Image.new(mode, (8, 8)).save(stream, "TIFF")
        assert single(stream.getvalue()).pixels(0, Crop(8, 8)).shape == (3, 8, 8)


def test_crops_keep_the_aspect_ratio() -> None:
    pixels = single(png(400, 100)).pixels(0, Crop(64, 64))
    assert pixels.shape == (3, 64, 64)
    assert pixels.dtype == np.float32
    assert (pixels[:, :, :24] < -0.98).all()  # the middle of the image, where black meets white
    assert (pixels[:, :, 40:] > 0.98).all()


def test_mirroring_swaps_left_and_right() -> None:
    image = single(png(64, 64))
    assert np.array_equal(image.pixels(0, Crop(64, 64, mirror=True)), image.pixels(0, Crop(64, 64))[:, :, ::-1])


def test_the_split_is_disjoint_complete_and_reproducible() -> None:
    names = [str(i) for i in range(20)]
    images = ImageDataset([bytes([i]) for i in range(20)], names, names)
    train, validation = split(images, 5)
    assert sorted([*train.captions, *validation.captions]) == sorted(images.captions)
    assert (len(train), len(validation)) == (15, 5)
    assert split(images, 5)[1].captions == validation.captions


def test_holding_out_all_images_is_refused() -> None:
    with pytest.raises(DataError, match="leaves nothing to train on: the data set has 1 images"):
        split(single(b"a"), 1)


def test_the_digest_depends_on_bytes_captions_and_order_alone() -> None:
    one = ImageDataset([b"a", b"b"], ["x", "y"], ["", ""])
    assert one.digest() == ImageDataset([b"a", b"b"], ["x", "y"], ["other", "labels"]).digest()
    others = [
        ImageDataset([b"b", b"a"], ["x", "y"], ["", ""]),
        ImageDataset([b"a", b"b"], ["x", "z"], ["", ""]),
        one.select([0]),
    ]
    assert len({one.digest(), *(other.digest() for other in others)}) == 4
