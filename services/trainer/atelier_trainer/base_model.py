"""The base model: found by hub id or folder, named without a path, each part loaded only while it is needed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from atelier_contracts.manifests import file_sha256
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import CLIPTextModel, CLIPTokenizer

from atelier_trainer.errors import BaseModelError
from atelier_trainer.export.bundle import source_digest

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
PATTERNS = ["*.json", "*.txt", "*.safetensors", "*/*.json", "*/*.txt", "*/*.safetensors"]


@dataclass(frozen=True)
class Base:
    """A Stable Diffusion folder and its identity. Parts are loaded in float32, from safetensors only."""

    folder: Path
    variant: str | None
    noise: Any  # DDPMScheduler: adds noise and gives targets
    name: str  # hub id, or the name given to a local folder
    revision: str | None
    source: str  # sha256, see bundle.source_digest

    def unet(self) -> Any:
        """A new UNet2DConditionModel."""
        return self._load(UNet2DConditionModel, "unet", dtype=torch.float32)

    def vae(self) -> Any:
        """A new AutoencoderKL, in evaluation mode."""
        return self._load(AutoencoderKL, "vae", dtype=torch.float32).eval().requires_grad_(False)

    def text_encoder(self) -> Any:
        """A new CLIPTextModel, in evaluation mode."""
        return self._load(CLIPTextModel, "text_encoder", dtype=torch.float32).eval().requires_grad_(False)

    def tokenizer(self) -> Any:
        """The CLIPTokenizer."""
        return CLIPTokenizer.from_pretrained(self.folder / "tokenizer")

    def pipeline(self) -> Any:
        """All of it as a new StableDiffusionPipeline, for the export."""
        loaded = StableDiffusionPipeline.from_pretrained(
            self.folder,
            dtype=torch.float32,
            variant=self.variant,
            **_SAFE,
            safety_checker=None,
            requires_safety_checker=False,
        )
        loaded.set_progress_bar_config(disable=True)
        return loaded

    def config(self, part: str) -> dict[str, Any]:
        """What a part's config.json says."""
        read: dict[str, Any] = json.loads((self.folder / part / "config.json").read_text())
        return read

    def part_digest(self, *parts: str) -> str:
        """sha256 over all files of these parts."""
        digest = hashlib.sha256(str(self.variant).encode())
        for file in sorted(file for part in parts for file in (self.folder / part).rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(self.folder).as_posix()} {file_sha256(file)}\n".encode())
        return digest.hexdigest()

    @property
    def native_size_px(self) -> int:
        """Side of the images that the base was trained on."""
        return int(self.config("unet")["sample_size"]) * self.vae_factor

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, each way."""
        return int(2 ** (len(self.config("vae")["block_out_channels"]) - 1))

    @property
    def size_multiple_px(self) -> int:
        """Width and height must be multiples of this, so that the UNet halves its grid without a rest."""
        return int(self.vae_factor * 2 ** (len(self.config("unet")["block_out_channels"]) - 1))

    def _load(self, kind: Any, part: str, **rest: Any) -> Any:
        try:
            return kind.from_pretrained(self.folder / part, variant=self.variant, **_SAFE, **rest)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BaseModelError(f"the {part} of {self.name!r} does not load: {first_line[:300]}") from error


_SAFE = {"use_safetensors": True}  # pickles are never loaded


def load_base(
    name_or_path: str,
    revision: str | None,
    given_name: str | None,
    variant: str | None = None,
    prediction_type: str | None = None,
) -> Base:
    """Finds a base in a folder or on the hub and reads what it says of itself; no weights are loaded yet.

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
    _check_kind(folder, name)
    try:
        noise = DDPMScheduler.from_pretrained(folder / "scheduler")
    except (OSError, ValueError, TypeError) as error:
        raise BaseModelError(f"the scheduler of {name!r} does not load: {str(error).splitlines()[0]}") from error
    if prediction_type not in (None, noise.config.prediction_type):
        raise BaseModelError(
            f"--prediction_type must be what the base predicts, because everything that draws with the base reads it there: "
            f"{name!r} says {noise.config.prediction_type!r}; received {prediction_type!r}"
        )
    return Base(folder, variant, noise, name, revision, source_digest(folder))


def _check_kind(folder: Path, name: str) -> None:
    try:
        kind = json.loads((folder / "model_index.json").read_text()).get("_class_name")
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{name!r} has no readable model_index.json, so it is no diffusers folder") from error
    if kind != "StableDiffusionPipeline":
        raise BaseModelError(f"{name!r} is a {kind}; the base must be a StableDiffusionPipeline (1.x or 2.x)")
