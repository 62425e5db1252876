"""Files of `NAME=value` lines in the format of Docker and ECS: no quotes, no interpolation, one line per variable."""

from __future__ import annotations

import os
import re
from pathlib import Path

from atelier_infra.errors import InputError


def read(path: Path) -> dict[str, str]:
    """Reads a file; a missing file is empty.

    Raises:
        InputError: a line is not an assignment. The message contains no values.
    """
    return parse(path.read_text() if path.exists() else "", str(path))


def parse(text: str, source: str) -> dict[str, str]:
    """Parses the text of a file.

    Args:
        text: the text.
        source: path or URL of the file, for messages.

    Raises:
        InputError: a line is not an assignment. The message contains no values.
    """
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise InputError(
                f"{source}, line {number}: a line must be NAME=value without spaces around the name, or begin with #"
            )
        values[name] = value
    return values


def format_values(values: dict[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in values.items())


def write(path: Path, values: dict[str, str]) -> None:
    write_text(path, format_values(values))


def write_text(path: Path, content: str) -> None:
    """Writes a file atomically, with mode 0600."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
    new.replace(path)
