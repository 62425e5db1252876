"""The data set: images with captions, split once, cropped without distortion."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from atelier_trainer.config.option_groups import DataOptions
from atelier_trainer.errors import DataError, first_line

SPLIT_SEED = 0  # not the run's seed: versions are compared on the same held-out images
CENTER = (0.5, 0.5)
UNREADABLE = (UnidentifiedImageError, OSError, ValueError, SyntaxError)  # what Pillow raises for damaged files


@dataclass(frozen=True)
class Crop:
    """How an image becomes pixels.

    Attributes:
        width: px.
        height: px.
        mirror: flip left to right.
        position: where the crop lies in the part that is cut off, from (0, 0) for top left to (1, 1) for bottom right.
    """

    width: int
    height: int
    mirror: bool = False
    position: tuple[float, float] = CENTER

    def place(self, size: tuple[int, int]) -> tuple[tuple[int, int], int, int]:
        """The scaled size of an image of this size, and left and top of the crop in it."""
        scaled = covering_size(size, self.width, self.height)
        left, top = int((scaled[0] - self.width) * self.position[0]), int((scaled[1] - self.height) * self.position[1])
        return scaled, left, top


@dataclass(frozen=True)
class ImageDataset:
    """Encoded image files and their captions, in the data set's order; `labels` name the images in error messages."""

    files: Sequence[bytes]
    captions: Sequence[str]
    labels: Sequence[str]

    def __len__(self) -> int:
        return len(self.files)

    def digest(self) -> str:
        """sha256 over every image's bytes and caption, in order."""
        digest = hashlib.sha256()
        for content, caption in zip(self.files, self.captions, strict=True):
            digest.update(hashlib.sha256(content).digest() + hashlib.sha256(caption.encode()).digest())
        return digest.hexdigest()

    def image_digest(self) -> str:
        """sha256 over every image's bytes, in order; latents depend on nothing else of the data set."""
        return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in self.files)).hexdigest()

    def select(self, rows: Sequence[int]) -> ImageDataset:
        return ImageDataset([self.files[i] for i in rows], [self.captions[i] for i in rows], [self.labels[i] for i in rows])

    def open(self, row: int) -> Image.Image:
        """One image in RGB.

        Raises:
            DataError: the bytes are not an image.
        """
        try:
            with Image.open(io.BytesIO(self.files[row])) as image:
                return image.convert("RGB")
        except UNREADABLE as error:
            raise DataError(
                f"{self.labels[row]} cannot be read as an image: {error}; repair or remove it, or skip such images with "
                "--skip_bad"
            ) from error

    def pixels(self, row: int, crop: Crop) -> np.ndarray[Any, np.dtype[np.float32]]:
        """One image, scaled to cover the crop with its aspect ratio kept, and cropped.

        Returns:
            float32 [3, height, width] in [-1, 1].

        Raises:
            DataError: the bytes are not an image.
        """
        image = self.open(row)
        size, left, top = crop.place(image.size)
        if size != image.size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        pixels = np.asarray(image.crop((left, top, left + crop.width, top + crop.height)), np.float32) / 127.5 - 1.0
        return np.ascontiguousarray((pixels[:, ::-1] if crop.mirror else pixels).transpose(2, 0, 1))

    def size(self, row: int) -> tuple[int, int]:
        """Width and height of an image in px, read from its header.

        Raises:
            DataError: the bytes are not an image.
        """
        try:
            with Image.open(io.BytesIO(self.files[row])) as header:
                return header.size
        except UNREADABLE:
            return self.open(row).size  # raises with the image's label

    def geometry(self, row: int, crop: Crop) -> tuple[int, int, int, int]:
        """Height and width of the original image, top and left of the crop in the scaled one, in px."""
        width, height = self.size(row)
        _, left, top = crop.place((width, height))
        return height, width, top, left

    def any_larger_than(self, width: int, height: int) -> bool:
        """Whether any image, scaled to cover this size, is larger than it, so that crops can differ."""
        return any(covering_size(self.size(row), width, height) != (width, height) for row in range(len(self)))


@lru_cache(maxsize=1024)
def covering_size(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """The smallest size of the same aspect ratio that covers width x height."""
    scale = max(width / size[0], height / size[1])
    return max(width, round(size[0] * scale)), max(height, round(size[1] * scale))


def load_images(options: DataOptions, report: Callable[[str], None] = lambda _: None) -> ImageDataset:
    """Reads the data set with the `datasets` library.

    Args:
        options: name the data set and its columns.
        report: gets a line about images that were skipped.

    Raises:
        DataError: it cannot be loaded, is empty, or lacks a column.
    """
    import datasets

    source = options.dataset_name or str(options.train_data_dir)
    table = _load_table(options, source)
    for flag in ("image_column", "caption_column"):
        if (column := getattr(options, flag)) not in table.column_names:
            raise DataError(f"--{flag} {column!r} is not in {source!r}; its columns are {', '.join(table.column_names)}")
    if options.max_train_samples is not None:
        table = table.select(range(min(options.max_train_samples, len(table))))
    if len(table) == 0:
        raise DataError(f"data set {source!r} is empty")
    table = table.cast_column(options.image_column, datasets.Image(decode=False))
    files, labels = [], []
    for row, cell in enumerate(table[options.image_column]):
        label = Path(cell["path"]).name if cell.get("path") else f"row {row}"
        files.append(cell["bytes"] if cell.get("bytes") else Path(cell["path"]).read_bytes())
        labels.append(f"{label} (row {row} of {Path(source).name})")
    captions = [str(text[0] if isinstance(text, list) and text else text) for text in table[options.caption_column]]
    images = ImageDataset(files, captions, labels)
    return _without_unreadable(images, report) if options.skip_bad else images


def _load_table(options: DataOptions, source: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        if options.train_data_dir is not None:
            if not Path(options.train_data_dir).expanduser().is_dir():
                raise DataError(f"--train_data_dir {options.train_data_dir!r} is not a folder")
            return datasets.load_dataset("imagefolder", data_dir=str(Path(source).expanduser()), split="train")
        return datasets.load_dataset(source, options.dataset_config_name, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"data set {source!r} cannot be loaded: {first_line(error)}; check the name and the network, or give a folder of "
            "images"
        ) from error


def _without_unreadable(images: ImageDataset, report: Callable[[str], None]) -> ImageDataset:
    """Raises DataError where no image can be read."""
    readable, unreadable = [], []
    for row in range(len(images)):
        try:
            images.open(row)
            readable.append(row)
        except DataError:
            unreadable.append(images.labels[row])
    if not readable:
        raise DataError(f"none of the {len(images)} images can be read; the first is {unreadable[0]}")
    if unreadable:
        first = ", ".join(unreadable[:5]) + " …" * (len(unreadable) > 5)
        report(f"skipped {len(unreadable)} of {len(images)} images that cannot be read: {first}")
    return images.select(readable)


def split(images: ImageDataset, validation_samples: int) -> tuple[ImageDataset, ImageDataset]:
    """Training and validation images; the choice depends on the number of images alone.

    Raises:
        DataError: nothing would be left to train on.
    """
    if validation_samples >= len(images):
        raise DataError(
            f"--validation_samples {validation_samples} leaves nothing to train on: the data set has {len(images)} images; "
            "hold out fewer or add images"
        )
    order = np.random.default_rng([SPLIT_SEED, len(images)]).permutation(len(images)).tolist()
    return images.select(sorted(order[validation_samples:])), images.select(sorted(order[:validation_samples]))
