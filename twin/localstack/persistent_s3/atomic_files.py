"""Writes to a folder that hold after a kill at any moment: a file is either as it was or complete."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

PART = ".part"
"""Suffix of a file that is being written; one that is found at the start was left by a killed process."""


def flush(path: Path) -> None:
    """Returns once a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Replaces a file in one step, and returns once that is on the disk."""
    partial = path.with_name(path.name + PART)
    partial.write_text(json.dumps(facts))
    flush(partial)
    partial.replace(path)
    flush(path.parent)


def remove(path: Path) -> None:
    """Removes a file that may be gone already, and returns once that is on the disk."""
    path.unlink(missing_ok=True)
    flush(path.parent)
