"""Files of `NAME=value` lines as Docker and ECS read them: no quotes, no interpolation, one line per variable."""

from __future__ import annotations

import os
import re
from pathlib import Path

from atelier_infra.errors import AnswerError


def read(path: Path) -> dict[str, str]:
    """Reads one file; an absent one is empty.

    Raises:
        AnswerError: a line is no assignment. Values are not repeated.
    """
    return parse(path.read_text() if path.exists() else "", str(path))


def parse(text: str, place: str) -> dict[str, str]:
    """Reads the text of a file.

    Args:
        text: its lines.
        place: where it was, for messages.

    Raises:
        AnswerError: a line is no assignment. Values are not repeated.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise AnswerError(
                f"{place}, line {number}: must be NAME=value without spaces around the name or a line that begins with #"
            )
        found[name] = value
    return found


def text(values: dict[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in values.items())


def write(path: Path, values: dict[str, str]) -> None:
    """Writes one file that only its owner can read, whole or not at all."""
    write_text(path, text(values))


def write_text(path: Path, content: str) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
    new.replace(path)
