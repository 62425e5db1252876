"""The data set as the trainer sees it: pictures with captions, split once, transformed without distortion."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from atelier_trainer.errors import DataError
from atelier_trainer.options import TrainOptions

SPLIT_SEED = 0  # not the run's seed: versions are compared on the same held-out pictures


@dataclass(frozen=True)
class Pictures:
    """Encoded picture files and their captions, in the data set's order."""

    files: Sequence[bytes]
    captions: Sequence[str]
    labels: Sequence[str]  # what an error message calls each

    def __len__(self) -> int:
        return len(self.files)

    def digest(self) -> str:
        """sha256 over every picture's bytes and caption, in order."""
        digest = hashlib.sha256()
        for content, caption in zip(self.files, self.captions, strict=True):
            digest.update(hashlib.sha256(content).digest() + hashlib.sha256(caption.encode()).digest())
        return digest.hexdigest()

    def take(self, rows: Sequence[int]) -> Pictures:
        """The chosen rows, in the order given."""
        return Pictures([self.files[i] for i in rows], [self.captions[i] for i in rows], [self.labels[i] for i in rows])

    def pixels(self, row: int, width: int, height: int, mirror: bool) -> np.ndarray[Any, np.dtype[np.float32]]:
        """One picture, scaled to cover width x height with its aspect kept and cropped in the middle.

        Returns:
            float32 [3, height, width] in [-1, 1].

        Raises:
            DataError: the bytes are not a picture.
        """
        try:
            with Image.open(io.BytesIO(self.files[row])) as opened:
                image = opened.convert("RGB")
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise DataError(f"{self.labels[row]} cannot be read as a picture: {error}") from error
        scale = max(width / image.width, height / image.height)
        size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        if size != image.size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / 127.5 - 1.0
        return np.ascontiguousarray((pixels[:, ::-1] if mirror else pixels).transpose(2, 0, 1))


def load_pictures(options: TrainOptions) -> Pictures:
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
            table = datasets.load_dataset(source, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"data set {source!r} cannot be loaded: {error}") from error
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
    return Pictures(files, [str(text) for text in table[options.caption_column]], labels)


def split(pictures: Pictures, held_out: int) -> tuple[Pictures, Pictures]:
    """Training and validation pictures; the choice depends on the number of pictures alone.

    Raises:
        DataError: nothing would be left to train on.
    """
    if held_out >= len(pictures):
        raise DataError(
            f"--validation_samples {held_out} leaves nothing to train on: the data set has {len(pictures)} pictures; "
            "hold fewer out or add pictures"
        )
    order = np.random.default_rng([SPLIT_SEED, len(pictures)]).permutation(len(pictures)).tolist()
    return pictures.take(sorted(order[held_out:])), pictures.take(sorted(order[:held_out]))
