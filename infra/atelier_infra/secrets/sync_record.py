"""`secrets/synced.json`: digests of the secrets on this machine and on AWS after the last synchronization."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from atelier_infra.errors import InputError
from atelier_infra.secrets import env_files

FILE = "synced.json"


def digest(values: dict[str, str]) -> str:
    """SHA-256 over names and values, sorted by name."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_digest(folder: Path, service: str, side: Literal["local", "remote"]) -> str | None:
    """The digest of one side after the last synchronization; None without one.

    Raises:
        InputError: the file is not valid JSON.
    """
    value: str | None = _read(folder).get(service, {}).get(side)
    return value


def write(folder: Path, service: str, *, local: dict[str, str], remote: dict[str, str] | None) -> None:
    """Records both sides.

    Args:
        folder: folder of the env files.
        service: the service.
        local: variables of its env file.
        remote: variables on AWS; None if they were created on this machine and are not on AWS yet.
    """
    record = _read(folder) | {service: {"local": digest(local), "remote": None if remote is None else digest(remote)}}
    env_files.write_text(folder / FILE, json.dumps(record, indent=2) + "\n")


def _read(folder: Path) -> dict[str, dict[str, str | None]]:
    path = folder / FILE
    try:
        record: dict[str, dict[str, str | None]] = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise InputError(
            f"{path} must be the JSON that `up` wrote; received {error}; remove it and compare the secrets by hand"
        ) from error
    return record
