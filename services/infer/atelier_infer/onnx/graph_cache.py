"""Graphs derived from a bundle's, cached with their checksums, which are verified at every use."""

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

GRAPH, WEIGHTS, CHECKSUMS = "graph.onnx", "graph.onnx.data", "sha256.json"


def is_usable(folder: Path) -> bool:
    """Whether the folder holds an intact graph; a damaged one is removed."""
    if _intact(folder):
        os.utime(folder)  # eviction is by least recent use
        return True
    if folder.exists():
        log.warning("damaged graph removed from the cache", extra={"fields": {"folder": str(folder)}})
        shutil.rmtree(folder)
    return False


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to `folder`, with checksums of its files, if the block succeeds."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="incoming-", dir=folder.parent) as name:
        built = Path(name) / "built"
        built.mkdir()
        yield built
        files = {file.name: file_sha256(file) for file in built.iterdir()}
        (built / CHECKSUMS).write_text(json.dumps(files))
        if not folder.exists():  # another process may have been faster
            built.rename(folder)


def _intact(folder: Path) -> bool:
    try:
        checksums: dict[str, str] = json.loads((folder / CHECKSUMS).read_text())
        return GRAPH in checksums and all(file_sha256(folder / Path(name).name) == sha256 for name, sha256 in checksums.items())
    except (OSError, ValueError, AttributeError):
        return False
