"""A data set as the UNet sees it: latents to sample from, and embeddings of the captions.

Notation: n images, v variants of each (crops x flips), b batch, c h w latent shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from atelier_trainer.data.dataset import Crop, ImageDataset
from atelier_trainer.families.family import Conditioning


@dataclass(frozen=True)
class Augmentation:
    """The variants of each image.

    Attributes:
        width: px.
        height: px.
        flip: add the mirror image.
        crops: random crops of each image; 0 for the one at the centre.
    """

    width: int
    height: int
    flip: bool = False
    crops: int = 0


@dataclass(frozen=True)
class CaptionEmbeddings:
    """What the captions condition the UNet on.

    Attributes:
        conditioning: float32, with the distinct captions as first dimension; the first one is the empty caption.
        rows: int64 [n], the row of each image's caption.
    """

    conditioning: Conditioning
    rows: torch.Tensor

    def of_images(self, images: torch.Tensor) -> Conditioning:
        """Of these images' captions, with a first dimension of b."""
        return {name: tensor[self.rows[images]] for name, tensor in self.conditioning.items()}

    @property
    def empty(self) -> Conditioning:
        """Of the empty caption, with a first dimension of 1."""
        return {name: tensor[:1] for name, tensor in self.conditioning.items()}

    def slice(self, start: int, stop: int) -> CaptionEmbeddings:
        """Those of a range of images."""
        return CaptionEmbeddings(self.conditioning, self.rows[start:stop])


class Latents(Protocol):
    def __len__(self) -> int:
        """Number of images."""

    def sample(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A new variant and a new posterior sample of each of these images, scaled, float32 [b, c, h, w]."""


@dataclass(frozen=True)
class CachedLatents:
    """Latents from the cache: `mean` and `std` float32 [n, v, c, h, w]; samples are multiplied by `scale`."""

    mean: torch.Tensor
    std: torch.Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.mean)

    def sample(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        variants = torch.randint(0, self.mean.shape[1], (len(rows),), generator=generator)
        mean, std = self.mean[rows, variants], self.std[rows, variants]
        return (mean + std * torch.randn(mean.shape, generator=generator)) * self.scale


@dataclass(frozen=True)
class OnlineLatents:
    """Latents encoded at each step, with a new crop each time; the VAE stays loaded, which costs memory and time."""

    vae: Any
    images: ImageDataset
    augmentation: Augmentation
    scale: float

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        size = (self.augmentation.width, self.augmentation.height)
        positions = torch.rand((len(rows), 2), generator=generator).tolist()
        mirrored = (torch.rand(len(rows), generator=generator) < (0.5 if self.augmentation.flip else 0.0)).tolist()
        pixels = np.stack(
            [
                self.images.pixels(row, Crop(*size, mirror, (x, y)))
                for row, (x, y), mirror in zip(rows.tolist(), positions, mirrored, strict=True)
            ]
        )
        with torch.no_grad():
            posterior = self.vae.encode(torch.from_numpy(pixels).to(self.vae.device)).latent_dist
        mean, std = posterior.mean.cpu(), posterior.std.cpu()
        return (mean + std * torch.randn(mean.shape, generator=generator)) * self.scale


SomeLatents = TypeVar("SomeLatents", bound=Latents, covariant=True)


@dataclass(frozen=True)
class EncodedDataset(Generic[SomeLatents]):
    """Latents and captions of the same images, in the same order."""

    latents: SomeLatents
    captions: CaptionEmbeddings

    def __len__(self) -> int:
        return len(self.latents)
