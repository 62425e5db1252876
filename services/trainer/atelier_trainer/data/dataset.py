"""The data set as the trainer sees it: images with captions, split once, transformed without distortion."""

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

from atelier_trainer.config.options import TrainOptions
from atelier_trainer.errors import DataError

SPLIT_SEED = 0  # not the run's seed: versions are compared on the same held-out images
MIDDLE = (0.5, 0.5)


@dataclass(frozen=True)
class ImageDataset:
    """Encoded image files and their captions, in the data set's order."""

    files: Sequence[bytes]
    captions: Sequence[str]
    labels: Sequence[str]  # what an error message calls each

    def __len__(self) -> int:
        return len(self.files)

    def digest(self) -> str:
        """sha256 over every image's bytes and caption, in order."""
        digest = hashlib.sha256()
        for content, caption in zip(self.files, self.captions, strict=True):
            digest.update(hashlib.sha256(content).digest() + hashlib.sha256(caption.encode()).digest())
        return digest.hexdigest()

    def image_digest(self) -> str:
        """sha256 over every image's bytes, in order: what latents depend on, whatever the captions say."""
        return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in self.files)).hexdigest()

    def take(self, rows: Sequence[int]) -> ImageDataset:
        """The chosen rows, in the order given."""
        return ImageDataset([self.files[i] for i in rows], [self.captions[i] for i in rows], [self.labels[i] for i in rows])

    def opened(self, row: int) -> Image.Image:
        """One image in RGB.

        Raises:
            DataError: the bytes are not an image.
        """
        try:
            with Image.open(io.BytesIO(self.files[row])) as opened:
                return opened.convert("RGB")
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise DataError(
                f"{self.labels[row]} cannot be read as an image: {error}; mend or remove it, or leave such images out with "
                "--skip_bad"
            ) from error

    def pixels(
        self, row: int, width: int, height: int, mirror: bool, place: tuple[float, float] = MIDDLE
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """One image, scaled to cover width x height with its aspect kept, and cropped.

        Args:
            row: of the data set.
            width: px.
            height: px.
            mirror: left becomes right.
            place: where the crop lies, as shares of the room that there is, left to right and top to bottom.

        Returns:
            float32 [3, height, width] in [-1, 1].

        Raises:
            DataError: the bytes are not an image.
        """
        image = self.opened(row)
        size = covering(image.size, width, height)
        if size != image.size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        left, top = int((size[0] - width) * place[0]), int((size[1] - height) * place[1])
        pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / 127.5 - 1.0
        return np.ascontiguousarray((pixels[:, ::-1] if mirror else pixels).transpose(2, 0, 1))

    def leave_room(self, width: int, height: int) -> bool:
        """Whether any image, scaled to cover width x height, is larger than that, so that crops can differ."""
        for row, content in enumerate(self.files):
            try:
                with Image.open(io.BytesIO(content)) as header:
                    size = header.size
            except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
                size = self.opened(row).size  # raises with the image's name
            if covering(size, width, height) != (width, height):
                return True
        return False


@lru_cache(maxsize=1024)
def covering(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """The smallest size of the same aspect that covers width x height."""
    scale = max(width / size[0], height / size[1])
    return max(width, round(size[0] * scale)), max(height, round(size[1] * scale))


def load_images(options: TrainOptions, tell: Callable[[str], None] = lambda _: None) -> ImageDataset:
    """Reads the data set named by the options with the `datasets` library.

    Raises:
        DataError: it cannot be found, is empty, or lacks a column (the message names those it has).
    """
    import datasets

    datasets.disable_progress_bars()
    source = options.dataset_name or str(options.train_data_dir)
    try:
        if options.train_data_dir is not None:
            if not Path(options.train_data_dir).expanduser().is_dir():
                raise DataError(f"--train_data_dir {options.train_data_dir!r} is not a folder")
            table = datasets.load_dataset("imagefolder", data_dir=str(Path(source).expanduser()), split="train")
        else:
            table = datasets.load_dataset(source, options.dataset_config_name, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"data set {source!r} cannot be loaded: {first_line}; check the name and the network, or give a folder of images"
        ) from error
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
    return _without_bad(images, tell) if options.skip_bad else images


def _without_bad(images: ImageDataset, tell: Callable[[str], None]) -> ImageDataset:
    """The images that can be read; says which could not.

    Raises:
        DataError: none can.
    """
    good, bad = [], []
    for row in range(len(images)):
        try:
            images.opened(row)
            good.append(row)
        except DataError:
            bad.append(images.labels[row])
    if not good:
        raise DataError(f"none of the {len(images)} images can be read; the first is {bad[0]}")
    if bad:
        tell(f"left out {len(bad)} of {len(images)} images that cannot be read: {', '.join(bad[:5])}{' …' * (len(bad) > 5)}")
    return images.take(good)


def split(images: ImageDataset, held_out: int) -> tuple[ImageDataset, ImageDataset]:
    """Training and validation images; the choice depends on the number of images alone.

    Raises:
        DataError: nothing would be left to train on.
    """
    if held_out >= len(images):
        raise DataError(
            f"--validation_samples {held_out} leaves nothing to train on: the data set has {len(images)} images; "
            "hold fewer out or add images"
        )
    order = np.random.default_rng([SPLIT_SEED, len(images)]).permutation(len(images)).tolist()
    return images.take(sorted(order[held_out:])), images.take(sorted(order[:held_out]))
