"""The validation loss of an imported adapter, on the images that a training would hold out of the same data set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.config.option_groups import DataOptions
from atelier_trainer.data.cache import TensorCache
from atelier_trainer.data.dataset import ImageDataset, load_images, split
from atelier_trainer.data.encode import Encoder
from atelier_trainer.data.encoded import Augmentation, CaptionEmbeddings, EncodedDataset
from atelier_trainer.data.process_group import SingleProcess
from atelier_trainer.export.bundle import source_digest
from atelier_trainer.families.family import Conditioning
from atelier_trainer.objective import validation_digest, validation_loss


class HeldOutLoss(NamedTuple):
    """Fields of evidence.json."""

    validation_loss: float
    base_validation_loss: float
    validation_digest: str
    validation_images: int


@dataclass(frozen=True)
class HeldOutImages:
    """Images of a data set that a training with the same options would hold out, so that its adapters compare.

    Attributes:
        base: model that the adapters are for.
        images: held out.
        encoder: of images and captions.
        width: px, as the UNet sees them.
        height: px.
    """

    base: BaseModel
    images: ImageDataset
    encoder: Encoder
    width: int
    height: int

    def measure(self, models: Mapping[str, Any]) -> HeldOutLoss:
        """The loss with an adapter and without.

        Args:
            models: the UNet, and the text encoders that the adapter changes, by part, with the adapter.
        """
        encoders = {part: model for part, model in models.items() if part != "unet"}
        captions = self.encoder.encode_captions(self.images.captions, encoders)
        return HeldOutLoss(self._loss(models["unet"], captions), self._base_loss, self.digest, len(self.images))

    @functools.cached_property
    def digest(self) -> str:
        return validation_digest(self.images.digest(), source_digest(self.base), self.width, self.height)

    @functools.cached_property
    def _base_loss(self) -> float:
        return self._loss(self.base.load_unet(), self.encoder.encode_captions(self.images.captions))

    def _loss(self, unet: Any, captions: CaptionEmbeddings) -> float:
        latents = self.encoder.encode_images(self.images, Augmentation(self.width, self.height), lambda done, total: None)

        def sizes(geometry: torch.Tensor) -> Conditioning:
            return self.base.family.size_conditioning(geometry, self.width, self.height)

        return validation_loss(unet, self.base.noise_schedule, EncodedDataset(latents, captions, sizes))


def load_held_out(base: BaseModel, data: DataOptions, validation_samples: int, report: Callable[[str], None]) -> HeldOutImages:
    """Reads a data set and splits it as a training does.

    Raises:
        DataError: it cannot be read, is too small, or the size does not suit the base model.
    """
    width, height = data.width or base.native_size_px, data.height or base.native_size_px
    base.check_size(width, height)
    _, images = split(load_images(data, report), validation_samples)
    return HeldOutImages(
        base, images, Encoder(base, TensorCache(Path(data.cache_dir).expanduser(), SingleProcess())), width, height
    )
