"""What both sides held when the secrets of this machine and those at AWS last agreed: `secrets/synced.json`, digests only."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from atelier_infra.errors import AnswerError
from atelier_infra.secrets import env_files

FILE = "synced.json"


def digest(values: dict[str, str]) -> str:
    """SHA-256 over names and values in the order of names."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def known(folder: Path, service: str, side: Literal["local", "remote"]) -> str | None:
    """The digest of one side; None where the two never agreed.

    Raises:
        AnswerError: the file is not what `note` writes.
    """
    value: str | None = _read(folder).get(service, {}).get(side)
    return value


def note(folder: Path, service: str, *, local: dict[str, str], remote: dict[str, str] | None) -> None:
    """Remembers both sides.

    Args:
        folder: of the secrets.
        service: whose.
        local: the variables of the env file.
        remote: what AWS holds; None for secrets that were made on this machine and brought nowhere yet.
    """
    kept = _read(folder) | {service: {"local": digest(local), "remote": None if remote is None else digest(remote)}}
    env_files.write_text(folder / FILE, json.dumps(kept, indent=2) + "\n")


def _read(folder: Path) -> dict[str, dict[str, str | None]]:
    path = folder / FILE
    try:
        found: dict[str, dict[str, str | None]] = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise AnswerError(
            f"{path} must be the JSON that `up` wrote; received {error}; remove it, and compare by hand"
        ) from error
    return found
