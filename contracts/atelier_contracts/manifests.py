"""The two manifests that make a version: of the base bundle (exported once) and of the adapter (one per version)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from atelier_contracts.identifiers import Digest, FileName


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Frozen(BaseModel):
    """Unknown fields are an error: a manifest of another format must not half work."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        """The identity of what the manifest describes: sha256 over the manifest, which holds the digest of every file."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class BundleManifest(Frozen):
    """bundle.json: one base model at one revision, as ONNX graphs with LoRA inputs."""

    format: Literal[1] = 1
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
    text_tokens: int = Field(description="length that every prompt is padded or cut to")
    pad_token_id: int
    lora_targets: dict[str, tuple[int, int]] = Field(description="layer name to (in, out) features")
    files: dict[FileName, Digest] = Field(description="file name to its sha256, all files but bundle.json")


class AdapterManifest(Frozen):
    """adapter.json: what the weights beside it are, and where they come from."""

    format: Literal[1] = 1
    bundle_digest: Digest
    weights_sha256: Digest
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    targets: tuple[str, ...] = Field(description="layer names, each a key of the bundle's lora_targets")
    run_id: str
    dataset_digest: Digest
    git_revision: str | None = Field(description="of the trainer's source tree, None outside a checkout")


class Evidence(Frozen):
    """evidence.json: what was measured on exactly these weights before the version was registered."""

    format: Literal[1] = 1
    weights_sha256: Digest | None = Field(
        default=None, description="of the weights that were measured; None in files older than this field, which prove nothing"
    )
    output_finite: bool
    onnx_max_error: float = Field(description="largest |ONNX - torch| of one UNet step, over the largest |torch|")
    validation_loss: float
    base_validation_loss: float = Field(description="the same measurement without the adapter")
    validation_digest: str = Field(description="sha256 of what it was measured on: images, captions, time steps, size")
    validation_images: int
