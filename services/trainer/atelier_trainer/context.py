"""What the stages of one training pass on to each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from atelier_trainer.base_models.base_model import BaseModel
from atelier_trainer.config.hardware import Hardware
from atelier_trainer.config.options import TrainOptions
from atelier_trainer.data.dataset import ImageDataset
from atelier_trainer.data.encoded import CachedLatents, EncodedDataset, Latents
from atelier_trainer.graceful_stop import StopSignal
from atelier_trainer.tracking.progress import ProgressBars
from atelier_trainer.tracking.validation_images import ImageSampler


@dataclass(frozen=True)
class TrainContext:
    """What every stage uses.

    Attributes:
        options: all settings.
        hardware: precision and attention on this machine.
        accelerator: the process group and its devices.
        base: the base model.
        train_images: images that the adapter is trained on.
        validation_images: images held out.
        width: px, of the images as the UNet sees them.
        height: px.
        output_dir: the run's folder.
        progress: bars and messages.
        stop: SIGTERM.
    """

    options: TrainOptions
    hardware: Hardware
    accelerator: Accelerator
    base: BaseModel
    train_images: ImageDataset
    validation_images: ImageDataset
    width: int
    height: int
    output_dir: Path
    progress: ProgressBars
    stop: StopSignal

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and talks to MLflow."""
        return bool(self.accelerator.is_main_process)


@dataclass(frozen=True)
class PreparedData:
    """The encoded data. VAE and text encoder are no longer in memory, except for online latents.

    Attributes:
        train: images that the adapter is trained on.
        validation: held-out images.
        sampler: generates images of the validation prompt; None without one.
    """

    train: EncodedDataset[Latents]
    validation: EncodedDataset[CachedLatents]
    sampler: ImageSampler | None
