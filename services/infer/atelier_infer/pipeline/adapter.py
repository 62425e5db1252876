"""An adapter in memory: LoRA matrices as inputs of the UNet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from atelier_contracts import names
from atelier_contracts.manifests import AdapterManifest, BundleManifest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from atelier_infer.arrays import Array
from atelier_infer.errors import AdapterError, BundleMismatchError

_KEY = re.compile(r"unet\.(?P<layer>.+)\.lora_(?P<half>[AB])\.weight")

FLOATS = (np.float16, np.float32, np.float64)


@dataclass(frozen=True)
class Adapter:
    """A checked adapter.

    Attributes:
        digest: of its manifest, which contains the sha256 of its weights.
        feeds: per LoRA target of the bundle A float32 [in, r] and B float32 [r, out]; zeros where the adapter has none.
        scale: alpha / rank, the factor of `(x A) B`.
    """

    digest: str
    manifest: AdapterManifest
    feeds: dict[str, Array]
    scale: float

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.feeds.values())


def load_adapter(folder: Path, manifest: AdapterManifest, bundle: BundleManifest) -> Adapter:
    """Reads the weights; their sha256 was checked. Only safetensors is read, never a pickle.

    In the file, layer `l` is `unet.l.lora_A.weight` [r, in] and `unet.l.lora_B.weight` [out, r]; the graph takes both
    transposed.

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
    _check_names(where, set(tensors), manifest, bundle)
    feeds = {}
    for layer, (inner, outer) in bundle.lora_targets.items():
        halves = zip(names.lora_inputs(layer), ("A", "B"), ((manifest.rank, inner), (outer, manifest.rank)), strict=True)
        for feed, half, shape in halves:
            key = f"unet.{layer}.lora_{half}.weight"
            tensor = tensors.get(key, np.zeros(shape, np.float32))
            if tensor.shape != shape:
                raise AdapterError(f"{where}: {key} must have shape {list(shape)}; received {list(tensor.shape)}")
            if tensor.dtype.type not in FLOATS:
                raise AdapterError(f"{where}: {key} must be float32 or float16; received {tensor.dtype}")
            with np.errstate(over="ignore"):  # values beyond float32 become infinity
                feeds[feed] = np.ascontiguousarray(tensor.T, np.float32)
            if not np.isfinite(feeds[feed]).all():
                raise AdapterError(f"{where}: {key} must be finite in float32; received NaN or infinity; train again")
    return Adapter(manifest.digest(), manifest, feeds, manifest.alpha / manifest.rank)


def _check_names(where: str, keys: set[str], manifest: AdapterManifest, bundle: BundleManifest) -> None:
    matches = {key: _KEY.fullmatch(key) for key in keys}
    layers = {match["layer"] for match in matches.values() if match}
    complete = {f"unet.{layer}.lora_{half}.weight" for layer in layers for half in "AB"}
    faults = {
        "keys that are not unet.<layer>.lora_A.weight or lora_B.weight": {key for key, match in matches.items() if not match},
        "keys that are missing": complete - keys,
        "layers unknown to the bundle": (layers | set(manifest.targets)) - set(bundle.lora_targets),
        "layers in only one of weights and manifest": layers ^ set(manifest.targets),
    }
    if broken := [f"{rule}: {', '.join(sorted(names)[:5])}" for rule, names in faults.items() if names]:
        raise AdapterError(f"{where}: {'; '.join(broken)}")
