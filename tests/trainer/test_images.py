"""What the trainer reads: columns, the split, undistorted crops, errors that name the file."""

import dataclasses
import io
import json

import numpy as np
import pytest
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.data.dataset import ImageDataset, load_images, split
from atelier_trainer.errors import DataError
from PIL import Image


def png(width: int, height: int) -> bytes:
    """Left half black, right half white."""
    image = Image.new("RGB", (width, height), "white")
    image.paste("black", (0, 0, width // 2, height))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def options(sketches, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return TrainOptions(train_data_dir=str(sketches))


def test_a_folder_is_read_in_its_own_order(options, sketches):
    images = load_images(options)
    lines = [json.loads(line) for line in (sketches / "metadata.jsonl").read_text().splitlines()]
    assert images.captions == [line["text"] for line in lines]
    assert images.files[3] == (sketches / lines[3]["file_name"]).read_bytes()


def test_a_missing_column_names_those_there_are(options):
    with pytest.raises(DataError, match=r"--caption_column 'caption' is not in .*its columns are image, text"):
        load_images(dataclasses.replace(options, caption_column="caption"))


def test_a_folder_that_is_not_there(options, tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        load_images(dataclasses.replace(options, train_data_dir=str(tmp_path / "nowhere")))


def test_an_empty_folder(options, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"cannot be loaded|is empty"):
        load_images(dataclasses.replace(options, train_data_dir=str(tmp_path / "empty")))


def test_an_unreadable_image_is_named():
    images = ImageDataset([b"not an image"], ["a cat"], ["000007.png (row 7 of sketches)"])
    with pytest.raises(DataError, match=r"000007\.png"):
        images.pixels(0, 64, 64, mirror=False)


def test_images_keep_their_aspect():
    pixels = ImageDataset([png(400, 100)], ["x"], ["x"]).pixels(0, 64, 64, mirror=False)
    assert pixels.shape == (3, 64, 64)
    assert pixels.dtype == np.float32
    assert (pixels[:, :, :24] < -0.98).all()  # the middle of the image, where black meets white
    assert (pixels[:, :, 40:] > 0.98).all()


def test_mirroring_turns_left_and_right():
    images = ImageDataset([png(64, 64)], ["x"], ["x"])
    assert np.array_equal(images.pixels(0, 64, 64, mirror=True), images.pixels(0, 64, 64, mirror=False)[:, :, ::-1])


def test_the_split_is_disjoint_complete_and_always_the_same():
    images = ImageDataset([bytes([i]) for i in range(20)], [str(i) for i in range(20)], [str(i) for i in range(20)])
    fitted, held_out = split(images, 5)
    assert sorted(fitted.captions + held_out.captions) == sorted(images.captions)
    assert (len(fitted), len(held_out)) == (15, 5)
    assert split(images, 5)[1].captions == held_out.captions


def test_holding_out_everything_is_refused():
    with pytest.raises(DataError, match="leaves nothing to train on: the data set has 1 images"):
        split(ImageDataset([b"a"], ["a"], ["a"]), 1)


def test_the_digest_follows_bytes_captions_and_order():
    one = ImageDataset([b"a", b"b"], ["x", "y"], ["", ""])
    assert one.digest() == ImageDataset([b"a", b"b"], ["x", "y"], ["other", "labels"]).digest()
    others = [ImageDataset([b"b", b"a"], ["x", "y"], ["", ""]), ImageDataset([b"a", b"b"], ["x", "z"], ["", ""]), one.take([0])]
    assert len({one.digest(), *(other.digest() for other in others)}) == 4
