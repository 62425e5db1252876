"""Checkpoints: everything that a training needs to go on as if nothing had happened, written whole or not at all.

A checkpoint is a folder `checkpoint-<step>` of safetensors files and `checkpoint.json` with the sha256 of each. It is written
beside its place and renamed, so that a kill leaves either all of it or nothing.
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

from atelier_trainer.data.cache import ProcessGroup
from atelier_trainer.errors import CheckpointError

log = logging.getLogger(__name__)
FORMAT = 1
MANIFEST = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """What was read back. `state` is as given to `save`, `own` as this process gave it."""

    step: int
    state: dict[str, Any]
    own: dict[str, Any]


def save(
    out: Path,
    step: int,
    settings: dict[str, Any],
    state: dict[str, Any],
    own: dict[str, Any],
    crew: ProcessGroup,
    keep: int | None,
) -> Path:
    """Writes the state of the run at this step; every process of the crew calls it.

    Args:
        out: the run's folder, on a disk that all processes share.
        step: optimizer steps done.
        settings: `TrainOptions.resolved()`, compared when the run goes on.
        state: nested dicts and lists of tensors, numbers and text; that of the main process is kept.
        own: the same for what differs between processes.
        crew: the processes.
        keep: newest checkpoints to keep; None for all.
    """
    place, partial = out / f"checkpoint-{step}", out / f".checkpoint-{step}.partial"
    if crew.process_index == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    crew.wait_for_everyone()
    _write(partial, f"process-{crew.process_index}", own)
    if crew.process_index == 0:
        _write(partial, "state", state)
    crew.wait_for_everyone()
    if crew.process_index == 0:
        files = {file.name: file_sha256(file) for file in sorted(partial.iterdir())}
        manifest = {"format": FORMAT, "step": step, "processes": crew.num_processes, "settings": settings, "files": files}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2))
        for file in (*partial.iterdir(), partial):
            _to_disk(file)
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
        _to_disk(out)
        for old in steps_of(out)[keep:] if keep is not None else ():
            shutil.rmtree(out / f"checkpoint-{old}")
    crew.wait_for_everyone()
    return place


def steps_of(out: Path) -> list[int]:
    """Steps of the run's checkpoints, newest first."""
    found = (path.name.removeprefix("checkpoint-") for path in out.glob("checkpoint-*") if path.is_dir())
    return sorted((int(step) for step in found if step.isdecimal()), reverse=True)


def newest(out: Path, crew: ProcessGroup) -> Path | None:
    """The newest checkpoint that is not damaged; a damaged one is told and passed over."""
    for step in steps_of(out):
        place = out / f"checkpoint-{step}"
        try:
            _manifest(place)
        except CheckpointError as error:
            if crew.process_index == 0:
                log.warning("%s; the one before is used", error)
            continue
        return place
    return None


def load(place: Path, crew: ProcessGroup) -> tuple[Checkpoint, dict[str, Any]]:
    """A checkpoint and the settings it was written under.

    Raises:
        CheckpointError: it is damaged, of another format, or of another number of processes.
    """
    manifest = _manifest(place)
    if manifest["processes"] != crew.num_processes:
        raise CheckpointError(
            f"{place.name} was written by {manifest['processes']} processes and there are {crew.num_processes} now: the losses "
            "would not be the same; start as many"
        )
    step, own = int(manifest["step"]), _read(place, f"process-{crew.process_index}")
    return Checkpoint(step, _read(place, "state"), own), manifest["settings"]


def _manifest(place: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((place / MANIFEST).read_text())
        damaged = [name for name, digest in manifest["files"].items() if file_sha256(place / name) != digest]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {str(place)!r} is damaged or none: {error}") from error
    if damaged:
        raise CheckpointError(f"checkpoint {str(place)!r} is damaged: {', '.join(damaged)} has another sha256 than was written")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {str(place)!r} has format {manifest.get('format')}; this trainer reads {FORMAT}")
    return manifest


def _write(folder: Path, name: str, value: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    plain = _flatten(value, tensors)
    (folder / f"{name}.json").write_text(json.dumps(plain))
    try:
        save_file(tensors, folder / f"{name}.safetensors")
    except SafetensorError as error:  # an OSError in its own clothes
        raise CheckpointError(
            f"{str(folder)!r} cannot be written: {error}; checkpoints that are whole stay as they are"
        ) from error


def _read(folder: Path, name: str) -> Any:
    try:
        return _unflatten(json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors"))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} is damaged: {error}") from error


def _flatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Plain JSON in which tensors are named; dicts become lists of pairs, because optimizers use numbers as keys."""
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


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
