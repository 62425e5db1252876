"""A data set as the UNet sees it: latents to sample from, and embeddings of the captions.

Notation: n images, v variants of each (crops x flips), b batch, c h w latent shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

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
        zero_empty: whether the empty caption is zeros, as when images are generated without a negative prompt.
    """

    conditioning: Conditioning
    rows: torch.Tensor
    zero_empty: bool = False

    def of_images(self, images: torch.Tensor) -> Conditioning:
        """Of these images' captions, with a first dimension of b."""
        return {name: tensor[self.rows[images]] for name, tensor in self.conditioning.items()}

    @property
    def empty(self) -> Conditioning:
        """Of the empty caption, with a first dimension of 1."""
        first = {name: tensor[:1] for name, tensor in self.conditioning.items()}
        return {name: torch.zeros_like(tensor) for name, tensor in first.items()} if self.zero_empty else first

    def slice(self, start: int, stop: int) -> CaptionEmbeddings:
        """Those of a range of images."""
        return CaptionEmbeddings(self.conditioning, self.rows[start:stop], self.zero_empty)


class LatentSample(NamedTuple):
    """Of a batch of images.

    Attributes:
        latents: scaled, float32 [b, c, h, w].
        geometry: float32 [b, 4], height and width of the original image, top and left of its crop, in px.
    """

    latents: torch.Tensor
    geometry: torch.Tensor


class Latents(Protocol):
    def __len__(self) -> int:
        """Number of images."""

    def sample(self, rows: torch.Tensor, generator: torch.Generator) -> LatentSample:
        """A new variant and a new posterior sample of each of these images."""


@dataclass(frozen=True)
class CachedLatents:
    """Latents from the cache: `mean` and `std` float32 [n, v, c, h, w]; samples are multiplied by `scale`.

    `geometry` is float32 [n, v, 4], see `LatentSample`.
    """

    mean: torch.Tensor
    std: torch.Tensor
    geometry: torch.Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.mean)

    def sample(self, rows: torch.Tensor, generator: torch.Generator) -> LatentSample:
        variants = torch.randint(0, self.mean.shape[1], (len(rows),), generator=generator)
        mean, std = self.mean[rows, variants], self.std[rows, variants]
        latents = (mean + std * torch.randn(mean.shape, generator=generator)) * self.scale
        return LatentSample(latents, self.geometry[rows, variants])


@dataclass(frozen=True)
class OnlineLatents:
    """Latents encoded at each step, with a new crop each time; the VAE stays loaded, which costs memory and time."""

    vae: Any
    images: ImageDataset
    augmentation: Augmentation
    scale: float

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, rows: torch.Tensor, generator: torch.Generator) -> LatentSample:
        size = (self.augmentation.width, self.augmentation.height)
        positions = torch.rand((len(rows), 2), generator=generator).tolist()
        mirrored = (torch.rand(len(rows), generator=generator) < (0.5 if self.augmentation.flip else 0.0)).tolist()
        crops = [Crop(*size, mirror, (x, y)) for (x, y), mirror in zip(positions, mirrored, strict=True)]
        pixels = np.stack([self.images.pixels(row, crop) for row, crop in zip(rows.tolist(), crops, strict=True)])
        geometry = [self.images.geometry(row, crop) for row, crop in zip(rows.tolist(), crops, strict=True)]
        with torch.no_grad():
            posterior = self.vae.encode(torch.from_numpy(pixels).to(self.vae.device)).latent_dist
        mean, std = posterior.mean.cpu(), posterior.std.cpu()
        latents = (mean + std * torch.randn(mean.shape, generator=generator)) * self.scale
        return LatentSample(latents, torch.tensor(geometry, dtype=torch.float32))


SomeLatents = TypeVar("SomeLatents", bound=Latents, covariant=True)


@dataclass(frozen=True)
class EncodedDataset(Generic[SomeLatents]):
    """Latents and captions of the same images, in the same order.

    Attributes:
        size_conditioning: what the images' geometry conditions the UNet on; nothing by default.
    """

    latents: SomeLatents
    captions: CaptionEmbeddings
    size_conditioning: Callable[[torch.Tensor], Conditioning] = lambda _: {}

    def __len__(self) -> int:
        return len(self.latents)
