"""Graphs that were made of a bundle's, once: kept with their sums, checked at every use."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atelier_contracts.manifests import file_sha256

log = logging.getLogger(__name__)

OPTIMIZED, WEIGHTS, SUMS = "graph.onnx", "graph.onnx.data", "sha256.json"


def usable(home: Path) -> bool:
    """Whether an intact graph is kept there; a damaged one is removed."""
    if _intact(home):
        os.utime(home)  # the cache folder drops what was used longest ago
        return True
    if home.exists():
        log.warning("kept graph dropped: it is damaged", extra={"fields": {"folder": str(home)}})
        shutil.rmtree(home)
    return False


@contextmanager
def making(home: Path) -> Iterator[Path]:
    """A folder that takes the place of `home`, with the sums of its files, once the block ended well."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="incoming-", dir=home.parent) as name:
        made = Path(name) / "made"
        made.mkdir()
        yield made
        files = {file.name: file_sha256(file) for file in made.iterdir()}
        (made / SUMS).write_text(json.dumps(files))
        if not home.exists():  # another process may have been quicker
            made.rename(home)


def _intact(home: Path) -> bool:
    try:
        sums: dict[str, str] = json.loads((home / SUMS).read_text())
        return OPTIMIZED in sums and all(file_sha256(home / Path(name).name) == sha256 for name, sha256 in sums.items())
    except (OSError, ValueError, AttributeError):
        return False
