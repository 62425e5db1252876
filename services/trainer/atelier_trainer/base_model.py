"""The base model: located by hub id or folder, identified without a path, each part loaded only while it is needed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from atelier_contracts.manifests import file_sha256
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import CLIPTokenizer

from atelier_trainer.config.option_groups import ModelOptions
from atelier_trainer.errors import BaseModelError, first_line
from atelier_trainer.families import FAMILIES
from atelier_trainer.families.family import Family, TextEncoderPart

HUB_PATTERNS = ["*.json", "*.txt", "*.safetensors", "*/*.json", "*/*.txt", "*/*.safetensors"]
SAFE = {"use_safetensors": True}  # pickles are never loaded


@dataclass(frozen=True)
class BaseModel:
    """A diffusers folder. Parts are loaded in float32, from safetensors only.

    Attributes:
        family: what kind of model it is.
        folder: in diffusers' layout.
        variant: of the weight files.
        noise_schedule: diffusers' DDPMScheduler: adds noise and gives targets.
        name: hub id, or the name given to a local folder; never a path.
        revision: commit of the hub repository; None for a local folder.
    """

    family: Family
    folder: Path
    variant: str | None
    noise_schedule: Any
    name: str
    revision: str | None

    def load_unet(self) -> Any:
        return self._load(UNet2DConditionModel, "unet")

    def load_vae(self) -> Any:
        """An AutoencoderKL in evaluation mode."""
        return self._load(AutoencoderKL, "vae").eval().requires_grad_(False)

    def load_text_encoder(self, part: TextEncoderPart) -> Any:
        """One of the family's text encoders, in evaluation mode."""
        return self._load(part.model_class, part.part).eval().requires_grad_(False)

    def load_tokenizer(self, part: TextEncoderPart) -> Any:
        """Of one of the family's text encoders."""
        return CLIPTokenizer.from_pretrained(self.folder / part.tokenizer)

    def load_pipeline(self) -> Any:
        """All parts as the family's pipeline, for the export."""
        pipeline = self.family.pipeline_class.from_pretrained(
            self.folder, dtype=torch.float32, variant=self.variant, **SAFE, **self.family.pipeline_arguments
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def skeletons(self) -> dict[str, Any]:
        """The UNet and the text encoders by part, with shapes and without weights."""
        with torch.device("meta"):
            models: dict[str, Any] = {"unet": UNet2DConditionModel.from_config(self.config("unet"))}
            for part in self.family.text_encoders:
                models[part.part] = part.model_class(part.model_class.config_class(**self.config(part.part)))
        return models

    @property
    def zero_empty_negative(self) -> bool:
        """Whether images without a negative prompt are conditioned on zeros and not on the empty text."""
        index = json.loads((self.folder / "model_index.json").read_text())
        return bool(index.get("force_zeros_for_empty_prompt", False))

    def config(self, part: str) -> dict[str, Any]:
        """The part's config.json."""
        content: dict[str, Any] = json.loads((self.folder / part / "config.json").read_text())
        return content

    def part_digest(self, *parts: str) -> str:
        """sha256 over all files of these parts."""
        digest = hashlib.sha256(str(self.variant).encode())
        for file in sorted(file for part in parts for file in (self.folder / part).rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(self.folder).as_posix()} {file_sha256(file)}\n".encode())
        return digest.hexdigest()

    @property
    def native_size_px(self) -> int:
        """Side of the images that the base model was trained on."""
        return int(self.config("unet")["sample_size"]) * self.vae_factor

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, in each direction."""
        return int(2 ** (len(self.config("vae")["block_out_channels"]) - 1))

    @property
    def size_multiple_px(self) -> int:
        """Width and height must be multiples of this: the UNet halves its grid once per block but the last."""
        return int(self.vae_factor * 2 ** (len(self.config("unet")["block_out_channels"]) - 1))

    def _load(self, model_class: Any, part: str) -> Any:
        try:
            return model_class.from_pretrained(self.folder / part, variant=self.variant, **SAFE, dtype=torch.float32)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise BaseModelError(f"the {part} of {self.name!r} cannot be loaded: {first_line(error)}") from error


def load_base_model(options: ModelOptions) -> BaseModel:
    """Locates a base model in a folder or on the hub and reads its configuration; no weights are loaded yet.

    Raises:
        BaseModelError: there is none, it is not a Stable Diffusion folder, or the hub cannot be reached.
    """
    location = options.pretrained_model_name_or_path
    folder = Path(location).expanduser()
    if folder.is_dir():
        name, revision = options.base_name or folder.resolve().name, None
    elif location.startswith((".", "/", "~")):
        raise BaseModelError(f"there is no folder {location!r}; give a diffusers folder or a hub id")
    else:
        name, folder = location, _download(location, options.revision)
        revision = folder.name
    family = _family(folder, name)
    missing = [part for part in family.parts if not (folder / part).is_dir()]
    if missing:
        raise BaseModelError(f"{name!r} is not a complete {family.pipeline_class.__name__}: {', '.join(missing)} missing")
    try:
        noise_schedule = DDPMScheduler.from_pretrained(folder / "scheduler")
    except (OSError, ValueError, TypeError) as error:
        raise BaseModelError(f"the scheduler of {name!r} cannot be loaded: {first_line(error)}") from error
    if options.prediction_type not in (None, noise_schedule.config.prediction_type):
        raise BaseModelError(
            f"--prediction_type must be the base model's own, because whatever generates with it reads it there: "
            f"{name!r} says {noise_schedule.config.prediction_type!r}; received {options.prediction_type!r}"
        )
    return BaseModel(family, folder, options.variant, noise_schedule, name, revision)


def _download(hub_id: str, revision: str | None) -> Path:
    """The snapshot's folder, which is named after the commit."""
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=HUB_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError, OSError) as error:
        raise BaseModelError(
            f"base model {hub_id!r} is neither a folder nor on the hub ({type(error).__name__}): "
            "check the id, the revision and the network, or give a diffusers folder"
        ) from error


def _family(folder: Path, name: str) -> Family:
    try:
        pipeline_class = json.loads((folder / "model_index.json").read_text()).get("_class_name")
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{name!r} has no readable model_index.json, so it is not a diffusers folder") from error
    by_class = {family.pipeline_class.__name__: family for family in FAMILIES.values()}
    if pipeline_class not in by_class:
        raise BaseModelError(f"{name!r} is a {pipeline_class}; the base model must be a {' or a '.join(by_class)}")
    return by_class[pipeline_class]
