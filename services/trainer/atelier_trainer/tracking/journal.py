"""A run's journal: everything for MLflow is on disk first, so that it is neither lost nor sent twice.

One line per record: a checksum and JSON. A line that a kill cut off is removed when the journal is reopened. A file next to it,
replaced atomically, holds the offset up to which MLflow has the records.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from atelier_trainer.errors import JournalError

log = logging.getLogger(__name__)
Record = dict[str, Any]


class Journal:
    """Appends records, reads them in order, and remembers which were delivered. For one process; threads may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "images").mkdir(parents=True, exist_ok=True)
        self._file, self._offset_file = folder / "journal.jsonl", folder / "delivered"
        self._logged = set[tuple[str, int]]()  # (name, step) of metrics and images
        self.ended = False  # whether the last status is that of an ended run
        self._lock = threading.Lock()
        self._size = self._recover()
        self._delivered = self._read_offset()
        self._stream = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def close(self) -> None:
        os.close(self._stream)

    def add_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one step; the first value of a name at a step counts, so a resumed run adds nothing twice."""
        at_ms = time.time_ns() // 1_000_000
        new = {name: value for name, value in values.items() if (name, step) not in self._logged}
        if new:
            self.append({"kind": "metrics", "rows": [[name, value, step, at_ms] for name, value in new.items()]})

    def add_image(self, image: Image.Image, key: str, step: int) -> None:
        """An image, kept as a PNG file until it is delivered."""
        if (key, step) in self._logged:
            return
        name = f"{key}-{step:08}.png"
        image.save(self.folder / "images" / name)
        self.append({"kind": "image", "file": name, "key": key, "step": step, "at_ms": time.time_ns() // 1_000_000})

    def append(self, record: Record) -> None:
        """Adds a record, which then survives the process."""
        line = _encode(record)
        with self._lock:
            os.write(self._stream, line)
            self._size += len(line)
            self._remember(record)

    @property
    def pending(self) -> bool:
        """Whether there are undelivered records."""
        return self._delivered < self._size

    def read_pending(self, limit: int) -> tuple[list[Record], int]:
        """Up to `limit` undelivered records, oldest first, and the offset behind them for `mark_delivered`."""
        records: list[Record] = []
        with self._lock:
            offset, size = self._delivered, self._size
        with self._file.open("rb") as stream:
            stream.seek(offset)
            while offset < size and len(records) < limit:
                line = stream.readline()
                offset += len(line)
                if (record := _decode(line)) is not None:
                    records.append(record)
                else:
                    log.warning("damaged line skipped in %s", self._file)
        return records, offset

    def mark_delivered(self, offset: int) -> None:
        """Records that MLflow has everything up to the offset."""
        partial = self._offset_file.with_suffix(".part")
        partial.write_text(str(offset))
        partial.replace(self._offset_file)
        with self._lock:
            self._delivered = offset

    def _read_offset(self) -> int:
        """At most the journal's size: a power failure may have shortened the journal alone.

        Raises:
            JournalError: the file does not hold an offset.
        """
        if not self._offset_file.exists():
            return 0
        content = self._offset_file.read_bytes()
        if not re.fullmatch(rb"[0-9]{1,18}", content):
            raise JournalError(
                f"{self._offset_file} must hold the number of bytes of {self._file.name} that MLflow has; received "
                f"{content[:40]!r}; remove the file to send everything again: values that MLflow has are not duplicated"
            )
        return min(int(content), self._size)

    def _recover(self) -> int:
        """Removes a line that was cut off, remembers what was logged, and returns the size."""
        if not self._file.exists():
            return 0
        content = self._file.read_bytes()
        size = content.rfind(b"\n") + 1
        if size < len(content):
            os.truncate(self._file, size)
        for line in content[:size].splitlines(keepends=True):
            if (record := _decode(line)) is not None:
                self._remember(record)
        return size

    def _remember(self, record: Record) -> None:
        self._logged.update(_names(record))
        if record["kind"] == "status":
            self.ended = record["status"] != "RUNNING"


def _names(record: Record) -> list[tuple[str, int]]:
    if record["kind"] == "metrics":
        return [(name, step) for name, _, step, _ in record["rows"]]
    return [(record["key"], record["step"])] if record["kind"] == "image" else []


def _encode(record: Record) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decode(line: bytes) -> Record | None:
    """None where the line is damaged."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        record: Record = json.loads(text)
        set(_names(record))  # fails where a field is missing or of the wrong type
        if record["kind"] == "status" and not isinstance(record["status"], str):
            return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return record
