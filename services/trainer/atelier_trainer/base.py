"""The base model: found by hub id or folder, loaded once, named without a path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from atelier_trainer.bundle import source_digest
from atelier_trainer.errors import BaseModelError

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
PATTERNS = ["*.json", "*.txt", "*.safetensors", "*/*.json", "*/*.txt", "*/*.safetensors"]


@dataclass(frozen=True)
class Base:
    """A loaded Stable Diffusion pipeline (float32) and its identity."""

    pipeline: Any
    noise: Any  # DDPMScheduler: adds noise and gives targets
    name: str  # hub id, or the name given to a local folder
    revision: str | None
    source: str  # sha256, see bundle.source_digest

    @property
    def native_size_px(self) -> int:
        """Side of the pictures that the base was trained on."""
        return int(self.pipeline.unet.config.sample_size) * self.vae_factor

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, each way."""
        return int(2 ** (len(self.pipeline.vae.config.block_out_channels) - 1))


def load_base(name_or_path: str, revision: str | None, given_name: str | None) -> Base:
    """Loads a pipeline from a folder or the hub, safetensors only.

    Raises:
        BaseModelError: nothing there, not a Stable Diffusion folder, or the hub cannot be reached.
    """
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        name, revision = given_name or folder.resolve().name, None
    elif name_or_path.startswith((".", "/", "~")):
        raise BaseModelError(f"there is no folder {name_or_path!r}; give a diffusers folder or a hub id")
    else:
        name = name_or_path
        try:
            folder = Path(snapshot_download(name_or_path, revision=revision, allow_patterns=PATTERNS))
        except (HfHubHTTPError, LocalEntryNotFoundError, ValueError, OSError) as error:
            raise BaseModelError(
                f"base model {name_or_path!r} is neither a folder nor found on the hub ({type(error).__name__}): "
                "check the id, the revision and the network, or give a diffusers folder"
            ) from error
        revision = folder.name
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise BaseModelError(f"{name!r} is not a complete Stable Diffusion folder: {', '.join(missing)} missing")
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, safety_checker=None, requires_safety_checker=False
        )
    except (OSError, ValueError, TypeError) as error:
        raise BaseModelError(f"{name!r} does not load as a Stable Diffusion pipeline: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return Base(pipeline, DDPMScheduler.from_config(pipeline.scheduler.config), name, revision, source_digest(folder))
