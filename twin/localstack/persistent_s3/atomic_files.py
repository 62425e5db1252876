"""Crash-safe writes: after a kill at any moment a file has either its old or its new content."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

PART = ".part"
"""Suffix of files that are being written; those that exist at start were left by a killed process."""


def fsync(path: Path) -> None:
    """Flushes the content of a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replaces a file atomically and durably."""
    partial = path.with_name(path.name + PART)
    partial.write_text(json.dumps(value))
    fsync(partial)
    partial.replace(path)
    fsync(path.parent)


def remove(path: Path) -> None:
    """Removes a file durably, if it exists."""
    path.unlink(missing_ok=True)
    fsync(path.parent)
