"""The journal of a run: what is to reach MLflow, kept on disk first. Whatever happens later, it is not lost and not sent twice.

One line per record: a checksum and JSON. A line that a kill cut off is removed when the journal is opened again. How far MLflow
has it stands in a file beside it, which is replaced whole.
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
    """Appends records, hands them out in order, remembers which were delivered. One process at a time; threads may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "images").mkdir(parents=True, exist_ok=True)
        self._file, self._mark = folder / "journal.jsonl", folder / "delivered"
        self._known = set[tuple[str, int]]()  # (name, step) of metrics and images
        self.ended = False  # whether the last status is that of an ended run
        self._lock = threading.Lock()
        self._size = self._mend()
        self._delivered = self._read_mark()
        self._stream = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def close(self) -> None:
        """Nothing can be appended after."""
        os.close(self._stream)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one step; a name that has a value at this step keeps it, so a run that goes on adds nothing twice."""
        at_ms = time.time_ns() // 1_000_000
        new = {name: value for name, value in values.items() if (name, step) not in self._known}
        if new:
            self.append({"kind": "metrics", "rows": [[name, value, step, at_ms] for name, value in new.items()]})

    def image(self, image: Image.Image, key: str, step: int) -> None:
        """An image, kept as a PNG file beside the journal until it is delivered."""
        if (key, step) in self._known:
            return
        name = f"{key}-{step:08}.png"
        image.save(self.folder / "images" / name)
        self.append({"kind": "image", "file": name, "key": key, "step": step, "at_ms": time.time_ns() // 1_000_000})

    def append(self, record: Record) -> None:
        """Adds a record; it survives the process from here on."""
        line = _line(record)
        with self._lock:
            os.write(self._stream, line)
            self._size += len(line)
            self._learn(record)

    @property
    def pending(self) -> bool:
        """Whether anything is not delivered yet."""
        return self._delivered < self._size

    def next(self, most: int) -> tuple[list[Record], int]:
        """Up to `most` undelivered records, oldest first, and the mark to set once they are delivered."""
        records: list[Record] = []
        with self._lock:
            mark, size = self._delivered, self._size
        with self._file.open("rb") as stream:
            stream.seek(mark)
            while mark < size and len(records) < most:
                line = stream.readline()
                mark += len(line)
                if (record := _record(line)) is not None:
                    records.append(record)
                else:
                    log.warning("%s: a damaged line is left out", self._file)
        return records, mark

    def delivered(self, mark: int) -> None:
        """MLflow has everything before the mark."""
        partial = self._mark.with_suffix(".part")
        partial.write_text(str(mark))
        partial.replace(self._mark)
        with self._lock:
            self._delivered = mark

    def _read_mark(self) -> int:
        """How much MLflow has; never more than there is, since a loss of power may have shortened the journal alone.

        Raises:
            JournalError: the file holds something else.
        """
        if not self._mark.exists():
            return 0
        content = self._mark.read_bytes()
        if not re.fullmatch(rb"[0-9]{1,18}", content):
            raise JournalError(
                f"{self._mark} must hold how many bytes of {self._file.name} MLflow has; received {content[:40]!r}; "
                "remove it, and everything is sent again: values that MLflow has are not doubled"
            )
        return min(int(content), self._size)

    def _mend(self) -> int:
        """Removes a line that was cut off, learns which values there are, returns the size."""
        if not self._file.exists():
            return 0
        content = self._file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._file, whole)
        for line in content[:whole].splitlines(keepends=True):
            if (record := _record(line)) is not None:
                self._learn(record)
        return whole

    def _learn(self, record: Record) -> None:
        self._known.update(_names(record))
        if record["kind"] == "status":
            self.ended = record["status"] != "RUNNING"


def _names(record: Record) -> list[tuple[str, int]]:
    if record["kind"] == "metrics":
        return [(name, step) for name, _, step, _ in record["rows"]]
    return [(record["key"], record["step"])] if record["kind"] == "image" else []


def _line(record: Record) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _record(line: bytes) -> Record | None:
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        record: Record = json.loads(text)
        set(_names(record))  # fails where a field is missing or is no name
        if record["kind"] == "status" and not isinstance(record["status"], str):
            return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return record
