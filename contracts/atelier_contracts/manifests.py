"""The two manifests that make a version: of the base bundle (exported once) and of the adapter (one per version)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from atelier_contracts.identifiers import Digest, FileName
from atelier_contracts.styles import Style


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Frozen(BaseModel):
    """Unknown fields are an error: a file of another format must not half work."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Manifest(Frozen):
    """A manifest with an identity."""

    format: int

    def digest(self) -> str:
        """The identity of what the manifest describes: sha256 over the manifest, which holds the digest of every file.

        Fields with their default value are left out, so a new field does not change the digest of what is registered already.
        """
        content = {"format": self.format} | json.loads(self.model_dump_json(exclude_defaults=True))
        return hashlib.sha256(json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


Width = Annotated[int, Field(ge=1, le=2**20)]
"""Features or channels of a layer."""

LoraLayer = tuple[Width, Width, Annotated[int, Field(ge=1, le=16)]]
"""Input features or channels, output features or channels, and side of the kernel, which is 1 for a linear layer."""

LoraGroups = dict[str, dict[str, LoraLayer]]
"""By group, then by layer, in the order in which the layers lie in the group's inputs; see `names.lora_inputs`."""


def outdated_format(text: bytes | str) -> str | None:
    """What to do about a manifest of an earlier format, for an error's message; None for any other text."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if not isinstance(content, dict) or content.get("format") != 1:
        return None
    return (
        "it has format 1, which this release does not read: `python -m atelier_trainer import WEIGHTS --base BASE --register "
        "NAME` registers its weights again, with a bundle of format 2"
    )


class TextEncoder(Frozen):
    """One text encoder of a bundle."""

    graph: FileName
    tokenizer: FileName
    tokens: int = Field(description="length that every prompt is padded or cut to")
    pad_token_id: int


class BundleManifest(Manifest):
    """bundle.json: one base model at one revision, as ONNX graphs with LoRA inputs."""

    format: Literal[2] = 2
    family: Literal["sd", "sdxl"] = Field(description="how text becomes what the UNet is conditioned on")
    base: str = Field(description="hub id, or the name a local base was given; never a path")
    revision: str | None = Field(description="commit of the hub repository, None for a local base")
    source_digest: Digest
    opset: int
    latent_channels: int
    latent_scale: float = Field(description="latents * latent_scale have a standard deviation near 1")
    vae_factor: int = Field(description="pixels per latent, each way")
    size_multiple_px: int = Field(description="width and height must be multiples of this")
    native_size_px: int
    prediction_type: Literal["epsilon", "v_prediction"]
    text_encoders: dict[str, TextEncoder] = Field(description="by part of the diffusers folder, in the family's order")
    zero_empty_negative: bool = Field(
        default=False, description="an empty negative prompt is zeros, not the states of the empty text"
    )
    lora: dict[str, LoraGroups] = Field(description="the layers that take LoRA, by part of the diffusers folder")
    files: dict[FileName, Digest] = Field(description="file name to its sha256, all files but bundle.json")

    def lora_layers(self) -> dict[str, LoraLayer]:
        """All layers that take LoRA, by `part.layer`."""
        return {
            f"{part}.{layer}": shape
            for part, groups in self.lora.items()
            for layers in groups.values()
            for layer, shape in layers.items()
        }


class AdapterLayer(Frozen):
    """One LoRA pair: `alpha / rank` is the factor of its product."""

    rank: int = Field(ge=1, le=2**20)
    alpha: float = Field(gt=0, allow_inf_nan=False)


class ImportSource(Frozen):
    """The file that an adapter was imported from."""

    file: str = Field(description="its name, or hub id and name; never a path of a machine")
    sha256: Digest
    naming: str = Field(description="whose names its keys have: diffusers, kohya, comfyui, peft, or several joined by +")
    network: str = Field(description="kind of its weights: lora, loha, lokr, oft, ...")
    max_error: float = Field(ge=0, description="largest relative error of a layer's product; 0 where the conversion is exact")


class AdapterManifest(Manifest):
    """adapter.json: what the weights beside it are, and where they come from."""

    format: Literal[2] = 2
    bundle_digest: Digest
    weights_sha256: Digest
    layers: dict[str, AdapterLayer] = Field(min_length=1, description="by `part.layer`, each a layer of the bundle")
    run_id: str
    dataset_digest: Digest | None = Field(description="of the training images, None for an imported adapter")
    imported_from: ImportSource | None = None
    style: Style = Style()
    preview_sha256: Digest | None = Field(default=None, description="of preview.webp; None where there is none")
    git_revision: str | None = Field(description="of the trainer's source tree, None outside a checkout")

    @property
    def rank(self) -> int:
        """Of its largest layer."""
        return max(layer.rank for layer in self.layers.values())


class Evidence(Frozen):
    """evidence.json: what was measured on exactly these weights before the version was registered."""

    format: Literal[1] = 1
    weights_sha256: Digest | None = Field(
        default=None, description="of the weights that were measured; None in files older than this field, which prove nothing"
    )
    output_finite: bool
    onnx_max_error: float = Field(description="largest |ONNX - torch| of one UNet step, over the largest |torch|")
    validation_loss: float | None = Field(default=None, description="None for an adapter that was imported without images")
    base_validation_loss: float | None = Field(default=None, description="the same measurement without the adapter")
    validation_digest: str | None = Field(
        default=None, description="sha256 of what it was measured on: images, captions, time steps, size"
    )
    validation_images: int = 0
