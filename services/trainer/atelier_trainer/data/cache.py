"""A cache on disk for tensors that take long to compute: all processes of a training fill it together, later runs read it.

A file is named after the sha256 of its key, holds the key and a checksum of every tensor, and is written atomically. A build
that was killed continues with the parts that it had finished.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from atelier_trainer.data.process_group import ProcessGroup
from atelier_trainer.errors import DataError

log = logging.getLogger(__name__)
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TensorCache:
    """A folder of cached tensors.

    Attributes:
        folder: on a disk that all processes share.
        processes: that build together; part i is built in process i modulo their number.
    """

    folder: Path
    processes: ProcessGroup

    def get_or_build(
        self, kind: str, key: list[Any], parts: int, build: Callable[[int], Tensors], on_part: Callable[[int], None]
    ) -> Tensors:
        """The tensors of this key, read from the cache or built.

        Args:
            kind: prefix of the file's name.
            key: everything that the tensors depend on, as plain JSON.
            parts: number of parts.
            build: computes one part; parts are concatenated along the first dimension.
            on_part: called with the number of parts that this process has finished.

        Raises:
            DataError: what another process built cannot be read here, so the folder is not shared.
        """
        text = json.dumps(key)
        file = self.folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        with _lock(file.with_suffix(".lock"), self._is_main):
            self.processes.wait_for_everyone()
            tensors = _read(file, text)
            if tensors is None:
                self._build_parts(file, text, parts, build, on_part)
                self.processes.wait_for_everyone()
                if self._is_main:
                    _join_parts(file, text, parts)
                self.processes.wait_for_everyone()
                tensors = _read(file, text)
        if tensors is None:
            raise DataError(
                f"--cache_dir {str(self.folder)!r} must be one folder that all processes of the training share; it is not"
            )
        return tensors

    @property
    def _is_main(self) -> bool:
        return self.processes.process_index == 0

    def _build_parts(
        self, file: Path, key: str, parts: int, build: Callable[[int], Tensors], on_part: Callable[[int], None]
    ) -> None:
        _parts_folder(file).mkdir(exist_ok=True)
        own_parts = range(self.processes.process_index, parts, self.processes.num_processes)
        for finished, part in enumerate(own_parts, 1):
            part_file = _parts_folder(file) / f"{part:06}.safetensors"
            if _read(part_file, key) is None:
                _write(part_file, build(part), key)
            on_part(finished)


def _parts_folder(file: Path) -> Path:
    return file.with_suffix(".parts")


def _join_parts(file: Path, key: str, parts: int) -> None:
    pieces = [_read(_parts_folder(file) / f"{part:06}.safetensors", key) for part in range(parts)]
    readable = [piece for piece in pieces if piece is not None]
    if len(readable) == parts:
        _write(file, {name: torch.cat([piece[name] for piece in readable]) for name in readable[0]}, key)
        shutil.rmtree(_parts_folder(file))


def _write(file: Path, tensors: Tensors, key: str) -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    checksums = {name: _checksum(tensor) for name, tensor in contiguous.items()}
    partial = file.with_suffix(f".{os.getpid()}.part")
    try:
        save_file(contiguous, partial, {"key": key, "checksums": json.dumps(checksums)})
        partial.replace(file)
    except (SafetensorError, OSError) as error:
        partial.unlink(missing_ok=True)
        size_mib = sum(tensor.nbytes for tensor in contiguous.values()) >> 20
        raise DataError(f"cannot write {size_mib} MiB of encoded data to --cache_dir {str(file.parent)!r}: {error}") from error


def _read(file: Path, key: str) -> Tensors | None:
    """None where the file is missing, damaged, or of another key; it is then rebuilt."""
    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        log.warning("cache file %s is damaged and will be rebuilt: %s", file.name, error)
        return None
    if metadata.get("key") != key or json.loads(metadata["checksums"]) != {n: _checksum(t) for n, t in tensors.items()}:
        log.warning("cache file %s is damaged and will be rebuilt: key or checksums differ", file.name)
        return None
    return tensors


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(memoryview(tensor.numpy()).cast("B")) if tensor.numel() else 0


@contextmanager
def _lock(file: Path, is_main: bool) -> Iterator[None]:
    """Held by the main process of one training at a time, so that two runs on a machine do not build the same tensors twice."""
    if not is_main:
        yield
        return
    with file.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
