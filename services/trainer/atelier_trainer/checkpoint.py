"""Checkpoints: everything that a training needs to resume exactly, written atomically.

A checkpoint is a folder `checkpoint-<step>` of safetensors files and `checkpoint.json` with the sha256 of each. It is written
under another name and renamed, so that a kill leaves either all of it or nothing.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from atelier_contracts.manifests import file_sha256
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from atelier_trainer.data.process_group import ProcessGroup
from atelier_trainer.errors import CheckpointError

log = logging.getLogger(__name__)
FORMAT = 1
MANIFEST = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """State of a training; both parts are nested dicts and lists of tensors, numbers and text.

    Attributes:
        step: optimizer steps done.
        shared: the same in all processes.
        local: that of this process.
    """

    step: int
    shared: dict[str, Any]
    local: dict[str, Any]


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one run.

    Attributes:
        folder: the run's, on a disk that all processes share.
        processes: that save and load together.
        limit: newest checkpoints to keep; None for all.
    """

    folder: Path
    processes: ProcessGroup
    limit: int | None = None

    def save(self, checkpoint: Checkpoint, settings: dict[str, Any]) -> Path:
        """Writes a checkpoint; every process calls it.

        Args:
            checkpoint: the main process's shared part is saved, and every process's local part.
            settings: `TrainOptions.run_params()`, stored with it.
        """
        final = self.folder / f"checkpoint-{checkpoint.step}"
        partial = self.folder / f".checkpoint-{checkpoint.step}.partial"
        is_main = self.processes.process_index == 0
        if is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.processes.wait_for_everyone()
        _write(partial, f"process-{self.processes.process_index}", checkpoint.local)
        if is_main:
            _write(partial, "state", checkpoint.shared)
        self.processes.wait_for_everyone()
        if is_main:
            self._write_manifest(partial, checkpoint.step, settings)
            for file in (*partial.iterdir(), partial):
                fsync(file)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            fsync(self.folder)
            for old in self.steps()[self.limit :] if self.limit is not None else ():
                shutil.rmtree(self.folder / f"checkpoint-{old}")
        self.processes.wait_for_everyone()
        return final

    def steps(self) -> list[int]:
        """Steps of the run's checkpoints, newest first."""
        names = (path.name.removeprefix("checkpoint-") for path in self.folder.glob("checkpoint-*") if path.is_dir())
        return sorted((int(step) for step in names if step.isdecimal()), reverse=True)

    def newest(self) -> Path | None:
        """The newest checkpoint that is not damaged; each damaged one is logged and skipped."""
        for step in self.steps():
            path = self.folder / f"checkpoint-{step}"
            try:
                _read_manifest(path)
            except CheckpointError as error:
                if self.processes.process_index == 0:
                    log.warning("%s; using the one before", error)
                continue
            return path
        return None

    def load(self, path: Path) -> Checkpoint:
        """Reads one checkpoint.

        Raises:
            CheckpointError: it is damaged, of another format, or of another number of processes.
        """
        manifest = _read_manifest(path)
        if manifest["processes"] != self.processes.num_processes:
            raise CheckpointError(
                f"{path.name} was written by {manifest['processes']} processes and there are {self.processes.num_processes} "
                "now, so the losses would differ; start the same number"
            )
        local = _read(path, f"process-{self.processes.process_index}")
        return Checkpoint(int(manifest["step"]), _read(path, "state"), local)

    def _write_manifest(self, partial: Path, step: int, settings: dict[str, Any]) -> None:
        files = {file.name: file_sha256(file) for file in sorted(partial.iterdir())}
        manifest = {
            "format": FORMAT,
            "step": step,
            "processes": self.processes.num_processes,
            "settings": settings,
            "files": files,
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2))


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
        damaged = [name for name, digest in manifest["files"].items() if file_sha256(path / name) != digest]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {str(path)!r} is damaged or not a checkpoint: {error}") from error
    if damaged:
        raise CheckpointError(f"checkpoint {str(path)!r} is damaged: sha256 of {', '.join(damaged)} differs")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {str(path)!r} has format {manifest.get('format')}; this trainer reads {FORMAT}")
    return manifest


def _write(folder: Path, name: str, value: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    plain = _flatten(value, tensors)
    (folder / f"{name}.json").write_text(json.dumps(plain))
    try:
        save_file(tensors, folder / f"{name}.safetensors")
    except SafetensorError as error:  # safetensors' form of an OSError
        raise CheckpointError(f"{str(folder)!r} cannot be written: {error}; earlier checkpoints are intact") from error


def _read(folder: Path, name: str) -> Any:
    try:
        return _unflatten(json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors"))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} is damaged: {error}") from error


def _flatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Plain JSON that refers to tensors by name; dicts become lists of pairs, because optimizers use numbers as keys."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_flatten(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint holds tensors and plain values; received {type(value).__name__}")


def _unflatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unflatten(item, tensors) for key, item in content}
    return (tuple if kind == "tuple" else list)(_unflatten(item, tensors) for item in content)


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
