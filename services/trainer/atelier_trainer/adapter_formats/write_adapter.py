"""Writes an adapter as another tool reads it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from atelier_contracts.manifests import BundleManifest
from atelier_contracts.styles import Recommended, Style
from safetensors.torch import save_file

from atelier_trainer.adapter_formats.adapter_weights import AdapterWeights, LoraPair, by_part
from atelier_trainer.adapter_formats.layer_names import LayerNames
from atelier_trainer.adapter_formats.metadata import RECOMMENDED_KEY, THUMBNAIL_KEY
from atelier_trainer.adapter_formats.preview import write_thumbnail
from atelier_trainer.adapter_formats.read_adapter import PEFT_METADATA
from atelier_trainer.families.family import Family

Format = Literal["diffusers", "kohya", "comfyui"]
HALVES: dict[Format, tuple[str, str]] = {
    "diffusers": ("lora_A", "lora_B"),
    "kohya": ("lora_down", "lora_up"),
    "comfyui": ("lora_down", "lora_up"),
}
"""How each tool calls the two matrices of a layer."""


def write_adapter(pairs: AdapterWeights, names: LayerNames, format: Format, metadata: Mapping[str, str], file: Path) -> Path:
    """Writes the file in one move, with hashes of its tensors in the metadata.

    Args:
        pairs: of any part.
        names: of the base model's layers.
        format: whose names the keys get.
        metadata: of the header; see `describe_adapter`.
        file: to write; its folder exists.
    """
    down, up = HALVES[format]
    tensors: dict[str, torch.Tensor] = {}
    for layer, pair in pairs.items():
        name = names.all_names(layer)[format][0]
        tensors |= {f"{name}.{down}.weight": pair.down.contiguous(), f"{name}.{up}.weight": pair.up.contiguous()}
        if format != "diffusers":
            tensors[f"{name}.alpha"] = torch.tensor(pair.alpha, dtype=pair.down.dtype)
    more = {PEFT_METADATA: json.dumps(peft_metadata(pairs), sort_keys=True)} if format == "diffusers" else {}
    partial = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        save_file(tensors, partial)
        digest = _tensor_sha256(partial)
        hashes = {"modelspec.hash_sha256": f"0x{digest}", "sshs_model_hash": digest}
        save_file(tensors, partial, {"format": "pt", **metadata, **more, **hashes})
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def _tensor_sha256(file: Path) -> str:
    """Of all bytes after the header, which metadata does not change."""
    with file.open("rb") as stream:
        stream.seek(8 + int.from_bytes(stream.read(8), "little"))
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_adapter(
    pairs: AdapterWeights, family: Family, bundle: BundleManifest, style: Style, name: str, preview: bytes | None = None
) -> dict[str, str]:
    """`ss_*` and `modelspec.*` of a file.

    Args:
        pairs: of the adapter.
        family: of the base model.
        bundle: of the base model.
        style: what people should know of it.
        name: of the adapter, where its style has no title.
        preview: a WebP.
    """
    rank, alpha = Counter((pair.rank, pair.alpha) for pair in pairs.values()).most_common(1)[0][0]
    text_width = next((inner for name, (inner, _, _) in bundle.lora_layers().items() if name.endswith("attn2.to_k")), 0)
    architecture = family.architectures.get((text_width, bundle.prediction_type))  # None for a size that nobody published
    found: dict[str, Any] = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": alpha,
        "ss_sd_model_name": bundle.base,
        "ss_base_model_version": architecture.kohya if architecture else None,
        "ss_v2": architecture.kohya.startswith("sd_v2") if architecture else None,
        "ss_output_name": name,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": architecture.modelspec if architecture else None,
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "modelspec.title": style.title or name,
        "modelspec.description": style.description,
        "modelspec.author": style.author,
        "modelspec.license": style.licence,
        "modelspec.trigger_phrase": ", ".join(style.trigger_words),
        "modelspec.tags": ", ".join(style.tags),
        "modelspec.resolution": f"{bundle.native_size_px}x{bundle.native_size_px}",
        "modelspec.prediction_type": {"epsilon": "epsilon", "v_prediction": "v"}[bundle.prediction_type],
        THUMBNAIL_KEY: write_thumbnail(preview) if preview else None,
        RECOMMENDED_KEY: style.recommended.model_dump_json(exclude_none=True) if style.recommended != Recommended() else None,
        "modelspec.date": datetime.now(UTC).replace(microsecond=0).isoformat(),
    }
    return {key: str(value) for key, value in found.items() if value not in (None, "")}


def peft_metadata(pairs: AdapterWeights) -> dict[str, Any]:
    """Peft's configuration of each part, with the part's name in front of each key, as diffusers keeps it in a file."""
    return {
        f"{part}.{key}": value for part, layers in by_part(pairs).items() for key, value in peft_configuration(layers).items()
    }


def peft_configuration(layers: Mapping[str, LoraPair]) -> dict[str, Any]:
    """Of layers whose ranks and alphas may differ."""
    from peft import LoraConfig

    rank = Counter(pair.rank for pair in layers.values()).most_common(1)[0][0]
    alpha = Counter(pair.alpha for pair in layers.values()).most_common(1)[0][0]
    configuration = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted(layers),
        rank_pattern={layer: pair.rank for layer, pair in sorted(layers.items()) if pair.rank != rank},
        alpha_pattern={layer: pair.alpha for layer, pair in sorted(layers.items()) if pair.alpha != alpha},
    )
    return configuration_values(configuration)


def configuration_values(configuration: Any) -> dict[str, Any]:
    """Of peft's configuration, for JSON; peft keeps layer names as sets, whose order differs between processes."""
    return {name: sorted(value) if isinstance(value, set) else value for name, value in configuration.to_dict().items()}
