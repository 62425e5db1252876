"""Reads a safetensors file from anywhere: bounded, without executing anything, and with one line for what is wrong.

Layout: 8 bytes of header length, little endian; the header as JSON; the tensors.
Source: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from atelier_contracts.manifests import file_sha256
from safetensors import SafetensorError
from safetensors.torch import load_file

from atelier_trainer.errors import AdapterFileError, first_line

MAX_HEADER_BYTES = 100 * 2**20
"""The library's own limit."""
MAX_KEYS = 50_000
"""The largest adapters for SDXL have about 8,000."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class WeightsFile:
    """A file's content.

    Attributes:
        path: of the file.
        sha256: of all of it, which Civitai shows.
        tensors: by key; floats of any width.
        metadata: the header's own strings.
    """

    path: Path
    sha256: str
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]


def read_weights_file(path: Path) -> WeightsFile:
    """Reads a file.

    Raises:
        AdapterFileError: it is not a safetensors file of finite floating-point tensors.
    """
    header = read_header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise AdapterFileError(f"{path.name}: __metadata__ must hold strings; its header is damaged")
    if not header:
        raise AdapterFileError(f"{path.name}: it holds no tensors")
    if len(header) > MAX_KEYS:
        raise AdapterFileError(f"{path.name}: a file may hold {MAX_KEYS} tensors; it holds {len(header)}")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise AdapterFileError(f"{path.name}: it is not a readable safetensors file: {first_line(error)}") from error
    for key, tensor in tensors.items():
        if key.endswith(".alpha") and tensor.numel() == 1 and not tensor.is_complex():
            tensors[key] = tensor.float()  # some tools write an integer
        elif tensor.dtype not in FLOATS:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise AdapterFileError(f"{path.name}: tensors must be float16, bfloat16, float32 or float64; {key!r} is {dtype}")
        if not torch.isfinite(tensors[key]).all():
            raise AdapterFileError(f"{path.name}: tensors must be finite; {key!r} holds NaN or infinity")
    return WeightsFile(path, file_sha256(path), tensors, metadata)


def read_header(path: Path) -> dict[str, Any]:
    """The header of a file: dtype, shape and place of each tensor by its key, and `__metadata__`.

    Raises:
        AdapterFileError: it is not one of a safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8 or length > MAX_HEADER_BYTES:
                raise AdapterFileError(
                    f"{path.name}: it is not a safetensors file: its first 8 bytes say that the header has {length} bytes, and "
                    f"the file has {size}"
                )
            text = stream.read(length)
    except OSError as error:
        raise AdapterFileError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    repeated = list[str]()

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(f"{path.name}: it is not a safetensors file: its header is not JSON") from error
    if not isinstance(header, dict):
        raise AdapterFileError(f"{path.name}: it is not a safetensors file: its header is not an object")
    if repeated:
        raise AdapterFileError(f"{path.name}: a key may occur once; {repeated[0]!r} occurs more often")
    if any(not isinstance(entry, dict) for key, entry in header.items() if key != "__metadata__"):
        raise AdapterFileError(f"{path.name}: it is not a safetensors file: its header does not describe tensors")
    shapes = [entry.get("shape") for key, entry in header.items() if key != "__metadata__"]
    if any(
        not isinstance(shape, list) or math.prod(side for side in shape if isinstance(side, int)) > size for shape in shapes
    ):
        raise AdapterFileError(f"{path.name}: its header describes tensors that are larger than the file")
    return header
