"""From a file of another tool to an adapter's weights for one base model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from atelier_trainer.adapter_formats.adapter_weights import AdapterWeights
from atelier_trainer.adapter_formats.layer_names import LayerNames
from atelier_trainer.adapter_formats.metadata import parse_json
from atelier_trainer.adapter_formats.network_types import (
    ConversionLimits,
    Converted,
    Layer,
    LayerMismatchError,
    convert,
    network_type,
)
from atelier_trainer.adapter_formats.weights_file import WeightsFile
from atelier_trainer.errors import AdapterFileError

PEFT_METADATA = "lora_adapter_metadata"
"""Key of the header's metadata in which diffusers keeps peft's configuration, by part."""

SHOWN = 3
"""Names in a message."""


@dataclass(frozen=True)
class ReadAdapter:
    """What a file holds.

    Attributes:
        pairs: by `part.layer`.
        naming: whose names its keys have; several are joined by `+`.
        network: kind of its weights; likewise.
        errors: relative error of each layer that is not exact.
    """

    pairs: AdapterWeights
    naming: str
    network: str
    errors: Mapping[str, float]

    @property
    def max_error(self) -> float:
        return max(self.errors.values(), default=0.0)


def read_adapter(
    file: WeightsFile,
    base: str,
    names: LayerNames,
    layers: Mapping[str, Layer],
    *,
    limits: ConversionLimits,
    network_alpha: float | None = None,
) -> ReadAdapter:
    """Finds the layer of every tensor and converts each layer's network.

    Args:
        file: the file's content.
        base: name of the base model, for messages.
        names: of the base model's layers.
        layers: the same layers.
        limits: of the conversion.
        network_alpha: for layers whose alpha the file does not have; their rank by default.

    Raises:
        AdapterFileError: it is for another base model, a key occurs twice or is unknown, or a layer cannot be converted.
    """
    by_layer, unknown, namings = _by_layer(file, names)
    mismatches, converted, kinds = list[str](), dict[str, Converted](), Counter[str]()
    configuration = _peft_configuration(file)
    for name, tensors in by_layer.items():
        alpha = _alpha(name, tensors, configuration, network_alpha)
        complete = tensors if alpha is None else {**tensors, "alpha": torch.tensor(alpha)}
        try:
            converted[name] = convert(layers[name], complete, limits)
        except LayerMismatchError as mismatch:
            mismatches.append(str(mismatch))
        except AdapterFileError as error:
            raise AdapterFileError(f"{file.path.name}: {error}") from error
        kinds[network_type(tensors)] += 1
    _check_base(file, base, unknown, mismatches, len(by_layer))
    return ReadAdapter(
        {name: one.pair for name, one in sorted(converted.items())},
        "+".join(sorted(namings)),
        "+".join(sorted(kinds)),
        {name: one.error for name, one in converted.items() if one.error},
    )


def _by_layer(file: WeightsFile, names: LayerNames) -> tuple[dict[str, dict[str, torch.Tensor]], list[str], set[str]]:
    """Tensors by layer and kind, keys without a layer, and whose names they are."""
    by_layer: dict[str, dict[str, torch.Tensor]] = {}
    keys, unknown, namings = dict[tuple[str, str], str](), list[str](), set[str]()
    for key, tensor in file.tensors.items():
        found = names.find(key)
        if found is None:
            unknown.append(key)
            continue
        if other := keys.get((found.layer, found.suffix)):
            raise AdapterFileError(f"{file.path.name}: {other!r} and {key!r} are both {found.suffix} of {found.layer}")
        keys[found.layer, found.suffix] = key
        by_layer.setdefault(found.layer, {})[found.suffix] = tensor
        namings.add(found.naming)
    return by_layer, unknown, namings


def _check_base(file: WeightsFile, base: str, unknown: Sequence[str], mismatches: Sequence[str], fitting: int) -> None:
    """One line about what does not fit, and the family that would."""
    if not unknown and not mismatches:
        return
    family = guess_family(file.tensors)
    hint = f"; it looks like an adapter for {family}" if family else ""
    if mismatches:
        raise AdapterFileError(
            f"{file.path.name} does not fit {base}: {len(mismatches)} of {fitting} layers have other shapes, for example "
            f"{mismatches[0]}{hint}"
        )
    shown = ", ".join(unknown[:SHOWN]) + (f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else "")
    raise AdapterFileError(f"{file.path.name} does not fit {base}: it has no layer for {shown}{hint}")


def guess_family(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The kind of base model that a file was made for, by the width of the text and by names that only one kind has."""
    for key, tensor in tensors.items():
        if key.startswith("lora_te2_"):
            return "SDXL"
        if "double_blocks" in key or "single_transformer_blocks" in key:
            return "FLUX"
        if "joint_transformer_blocks" in key or ("joint_blocks" in key):
            return "Stable Diffusion 3"
        if "attn2" in key and "to_k" in key and ("down" in key.rpartition("to_k")[2] or "lora_A" in key):
            width = tensor.shape[1] if tensor.dim() > 1 else 0
            return {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}.get(width)
    return None


def _peft_configuration(file: WeightsFile) -> dict[str, Any]:
    configuration = parse_json(file.metadata.get(PEFT_METADATA, "{}"))
    if not isinstance(configuration, dict):
        raise AdapterFileError(f"{file.path.name}: {PEFT_METADATA} in its metadata must be a JSON object")
    return configuration


def _alpha(
    name: str, tensors: Mapping[str, torch.Tensor], configuration: Mapping[str, Any], network_alpha: float | None
) -> float | None:
    """What the file's metadata or the command says of a layer's alpha; None where its own tensor or its rank decides."""
    if "alpha" in tensors or "down" not in tensors:
        return None
    part, _, layer = name.partition(".")
    patterns, alpha = configuration.get(f"{part}.alpha_pattern"), configuration.get(f"{part}.lora_alpha")
    if isinstance(patterns, dict):  # peft reads the keys as patterns; files hold names, and an expression could take forever
        alpha = next((value for key, value in patterns.items() if layer == key or layer.endswith(f".{key}")), alpha)
    if not isinstance(alpha, int | float):
        return network_alpha
    rank = sum(tensors["down"].shape[:1])  # 0 for a tensor without dimensions, which the conversion refuses
    return float(alpha) * (rank**0.5 if configuration.get(f"{part}.use_rslora") else 1.0)
