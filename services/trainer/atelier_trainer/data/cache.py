"""Tensors that cost time and depend on known content: built once by all processes together, found by everyone after.

A file is named by the sha256 of its key, holds the key and a checksum of every tensor, and is written whole or not at all. A
build that was killed goes on with the parts it had finished.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from atelier_trainer.errors import DataError

log = logging.getLogger(__name__)
Tensors = dict[str, torch.Tensor]


class ProcessGroup(Protocol):
    """The processes of one training; accelerate's Accelerator is one."""

    @property
    def process_index(self) -> int:
        """0 in the main process."""

    @property
    def num_processes(self) -> int:
        """All of them."""

    def wait_for_everyone(self) -> None:
        """Returns when every process has called it."""


class SingleProcess:
    """A crew of one."""

    process_index, num_processes = 0, 1

    def wait_for_everyone(self) -> None:
        """There is nobody to wait for."""


def cached(
    folder: Path,
    kind: str,
    key: list[Any],
    parts: int,
    build: Callable[[int], Tensors],
    crew: ProcessGroup,
    progress: Callable[[int], None],
) -> Tensors:
    """The tensors of this key: read where they are kept, built in parts by the crew where they are not.

    Args:
        folder: on a disk that all processes of the crew share.
        kind: begins the file's name.
        key: everything that the tensors depend on; plain JSON.
        parts: number of pieces.
        build: makes one piece; pieces are concatenated along the first dimension.
        crew: builds piece i in process i modulo their number.
        progress: called with the pieces this process has done.

    Raises:
        DataError: what another process of the crew built cannot be read here.
    """
    text = json.dumps(key)
    file = folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()}.safetensors"
    pieces = file.with_suffix(".parts")
    folder.mkdir(parents=True, exist_ok=True)
    main = crew.process_index == 0
    with _lock(file.with_suffix(".lock"), main):
        crew.wait_for_everyone()
        found = _read(file, text)
        if found is not None:
            return found
        pieces.mkdir(exist_ok=True)
        for done, part in enumerate(range(crew.process_index, parts, crew.num_processes), 1):
            place = pieces / f"{part:06}.safetensors"
            if _read(place, text) is None:
                _write(place, build(part), text)
            progress(done)
        crew.wait_for_everyone()
        if main:
            read = [_read(pieces / f"{part:06}.safetensors", text) for part in range(parts)]
            whole = [piece for piece in read if piece is not None]
            if len(whole) == parts:
                _write(file, {name: torch.cat([piece[name] for piece in whole]) for name in whole[0]}, text)
                shutil.rmtree(pieces)
        crew.wait_for_everyone()
        found = _read(file, text)
    if found is None:
        raise DataError(f"--cache_dir {str(folder)!r} must be one folder that all processes of the training share; it is not")
    return found


def _write(file: Path, tensors: Tensors, key: str) -> None:
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    sums = {name: _checksum(tensor) for name, tensor in plain.items()}
    partial = file.with_suffix(f".{os.getpid()}.part")
    try:
        save_file(plain, partial, {"key": key, "checksums": json.dumps(sums)})
        partial.replace(file)
    except (SafetensorError, OSError) as error:
        partial.unlink(missing_ok=True)
        need = sum(tensor.nbytes for tensor in plain.values()) >> 20
        raise DataError(
            f"--cache_dir {str(file.parent)!r} must take what was encoded, {need} MiB; it does not: {error}"
        ) from error


def _read(file: Path, key: str) -> Tensors | None:
    """None where there is no such file, or where it is not what was once written: it is then built anew."""
    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        log.warning("%s is damaged and is made anew: %s", file.name, error)
        return None
    if metadata.get("key") != key or json.loads(metadata["checksums"]) != {n: _checksum(t) for n, t in tensors.items()}:
        log.warning("%s is damaged and is made anew: its checksums differ", file.name)
        return None
    return tensors


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(memoryview(tensor.numpy()).cast("B")) if tensor.numel() else 0


@contextmanager
def _lock(file: Path, main: bool) -> Iterator[None]:
    """Held by one crew's main process at a time, so that two runs on one machine do not build the same thing twice."""
    if not main:
        yield
        return
    with file.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
