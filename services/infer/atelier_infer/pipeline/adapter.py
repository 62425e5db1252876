"""An adapter in memory: LoRA matrices as inputs of the graphs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from atelier_infer.arrays import Array
from atelier_infer.errors import AdapterError, BundleMismatchError
from atelier_infer.pipeline.lora_layout import LayerWeights, LoraLayout, PartWeights

_KEY = re.compile(r"(?P<layer>.+)\.lora_(?P<half>[AB])\.weight")

FLOATS = (np.float16, np.float32, np.float64)


@dataclass(frozen=True)
class Adapter:
    """A checked adapter.

    Attributes:
        digest: of its manifest, which contains the sha256 of its weights.
        parts: its weights by graph: `unet` and the text encoders; without those that it leaves as they are.
    """

    digest: str
    manifest: AdapterManifest
    parts: Mapping[str, PartWeights]

    @property
    def nbytes(self) -> int:
        return sum(group.nbytes for part in self.parts.values() for group in part.values())

    @property
    def unet_rank(self) -> int:
        """The largest of its ranks in a step of the UNet."""
        return max((group.rank for group in self.parts.get("unet", {}).values()), default=0)


class WeightedAdapter(NamedTuple):
    """`weight` multiplies the adapter's own scale."""

    adapter: Adapter
    weight: float = 1.0


def load_adapter(folder: Path, manifest: AdapterManifest, bundle: BundleManifest) -> Adapter:
    """Reads the weights; their sha256 was checked. Only safetensors is read, never a pickle.

    In the file, layer `l` of part `p` is `p.l.lora_A.weight` [r, in] or [r, in, k, k], and `p.l.lora_B.weight` [out, r] or
    [out, r, 1, 1].

    Args:
        folder: of the weights.
        manifest: of the adapter.
        bundle: manifest of the base model that it must fit.

    Raises:
        BundleMismatchError: the adapter was trained on another bundle.
        AdapterError: unknown or incomplete layers, a wrong shape, NaN or infinity.
    """
    where = f"adapter {manifest.digest()}"
    if manifest.bundle_digest != bundle.digest():
        raise BundleMismatchError(where, expected=manifest.bundle_digest, received=bundle.digest())
    try:
        tensors = load_file(folder / names.WEIGHTS_FILE)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"{where}: {names.WEIGHTS_FILE} must be a safetensors file: {error}") from error
    known = bundle.lora_layers()
    _check_names(where, set(tensors), manifest, set(known))
    weights: dict[str, dict[str, LayerWeights]] = {}
    for key, layer in manifest.layers.items():
        shape = (layer.rank, *known[key])
        down, up = (_matrix(where, key, half, shape, tensors) for half in "AB")
        part, _, name = key.partition(".")
        weights.setdefault(part, {})[name] = LayerWeights(down, up, layer.alpha / layer.rank)
    return Adapter(
        manifest.digest(), manifest, {part: LoraLayout(bundle.lora[part]).pack(layers) for part, layers in weights.items()}
    )


def _matrix(where: str, layer: str, half: str, shape: tuple[int, int, int, int], tensors: Mapping[str, Array]) -> Array:
    """A [r, in * k * k] or B [out, r] of one layer, float32."""
    rank, inner, outer, kernel = shape
    key = f"{layer}.lora_{half}.weight"
    tensor, linear = tensors[key], (rank, inner) if half == "A" else (outer, rank)
    convolution = (*linear, kernel, kernel) if half == "A" else (*linear, 1, 1)
    if tensor.shape != convolution and (kernel > 1 or tensor.shape != linear):
        expected = convolution if kernel > 1 else linear
        raise AdapterError(f"{where}: {key} must have shape {list(expected)}; received {list(tensor.shape)}")
    if tensor.dtype.type not in FLOATS:
        raise AdapterError(f"{where}: {key} must be float32 or float16; received {tensor.dtype}")
    with np.errstate(over="ignore"):  # values beyond float32 become infinity
        matrix: Array = np.ascontiguousarray(tensor.reshape(tensor.shape[0], -1), np.float32)
    if not np.isfinite(matrix).all():
        raise AdapterError(f"{where}: {key} must be finite in float32; received NaN or infinity; train again")
    return matrix


def _check_names(where: str, keys: set[str], manifest: AdapterManifest, known: set[str]) -> None:
    matches = {key: _KEY.fullmatch(key) for key in keys}
    layers, described = {match["layer"] for match in matches.values() if match}, set(manifest.layers)
    complete = {f"{layer}.lora_{half}.weight" for layer in layers for half in "AB"}
    faults = {
        "keys that are not <part>.<layer>.lora_A.weight or lora_B.weight": {key for key, match in matches.items() if not match},
        "keys that are missing": complete - keys,
        "layers unknown to the bundle": (layers | described) - known,
        "layers in only one of weights and manifest": layers ^ described,
    }
    if broken := [f"{rule}: {', '.join(sorted(names)[:5])}" for rule, names in faults.items() if names]:
        raise AdapterError(f"{where}: {'; '.join(broken)}")
