"""The base model: a diffusers folder whose parts are loaded only while they are needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from atelier_contracts.manifests import file_sha256
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTokenizer

from atelier_trainer.errors import BaseModelError, DataError, first_line
from atelier_trainer.families.family import Family, TextEncoderPart

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
        revision: commit of the hub repository; None for a local model.
        vae_folder: of another VAE than the folder's own.
    """

    family: Family
    folder: Path
    variant: str | None
    noise_schedule: Any
    name: str
    revision: str | None
    vae_folder: Path | None = None

    def part_folder(self, part: str) -> Path:
        return self.vae_folder if part == "vae" and self.vae_folder is not None else self.folder / part

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
        return CLIPTokenizer.from_pretrained(self.part_folder(part.tokenizer))

    def load_pipeline(self) -> Any:
        """All parts as the family's pipeline, for the export."""
        arguments = dict(self.family.pipeline_arguments) | ({"vae": self.load_vae()} if self.vae_folder is not None else {})
        pipeline = self.family.pipeline_class.from_pretrained(
            self.folder, dtype=torch.float32, variant=self.variant, **SAFE, **arguments
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
        content: dict[str, Any] = json.loads((self.part_folder(part) / "config.json").read_text())
        return content

    def part_digest(self, *parts: str) -> str:
        """sha256 over all files of these parts."""
        digest = hashlib.sha256(str(self.variant).encode())
        for line in self.part_files(*sorted(parts)):
            digest.update(line.encode())
        return digest.hexdigest()

    def part_files(self, *parts: str) -> Iterator[str]:
        """A line of name and sha256 for each file of these parts."""
        for part in parts:
            folder = self.part_folder(part)
            for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                yield f"{part}/{file.relative_to(folder).as_posix()} {file_sha256(file)}\n"

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

    def check_size(self, width: int, height: int) -> None:
        """Raises DataError where images of this size, in px, do not suit the UNet."""
        multiple = self.size_multiple_px
        for name, value in (("width", width), ("height", height)):
            if value % multiple:
                raise DataError(f"--{name} must be a multiple of {multiple} px for {self.name!r}; received {value}")

    def _load(self, model_class: Any, part: str) -> Any:
        try:
            variant = None if part == "vae" and self.vae_folder is not None else self.variant
            return model_class.from_pretrained(self.part_folder(part), variant=variant, **SAFE, dtype=torch.float32)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise BaseModelError(f"the {part} of {self.name!r} cannot be loaded: {first_line(error)}") from error
