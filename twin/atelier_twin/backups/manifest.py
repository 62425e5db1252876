"""`manifest.json` of a backup, with the SHA-256 of each file, so that a damaged backup is never restored."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from atelier_twin.errors import BackupError

FORMAT = 1
FILE, DATABASE, SECRETS, TOKENS = "manifest.json", "database.sql", "secrets.json", "tokens"
NAME = re.compile(r"\d{8}T\d{6}Z")
"""Names of backup folders: the UTC time at which the backup was started."""


@dataclass(frozen=True)
class BackupFile:
    """One file of a backup.

    Attributes:
        file: path in the folder of the backup.
        size_bytes: size.
        sha256: SHA-256 of the content.
        key: key of the object in the bucket; None if the file is not an object.
        content_type: content type of the object.
        metadata: metadata of the object.
    """

    file: str
    size_bytes: int
    sha256: str
    key: str | None = None
    content_type: str | None = None
    metadata: dict[str, str] | None = None


@dataclass(frozen=True)
class Manifest:
    """The manifest; attributes are fields of the JSON file.

    Attributes:
        made_at: UTC time at which the backup was started.
        image_tag: tag of the running images.
        mlflow: version of MLflow in the image that created the backup.
        postgres: version of the server.
        revisions: schema → Alembic revision; None if the service was never started.
        pieces: all files except the manifest.
    """

    made_at: str
    image_tag: str
    mlflow: str
    postgres: str
    revisions: dict[str, str | None]
    pieces: tuple[BackupFile, ...]
    format: int = FORMAT

    @property
    def objects(self) -> list[BackupFile]:
        """The files that are objects of the bucket."""
        return [file for file in self.pieces if file.key is not None]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.pieces)


def describe(
    folder: Path, file: str, *, key: str | None = None, content_type: str | None = None, metadata: dict[str, str] | None = None
) -> BackupFile:
    """The entry of an existing file, with its size and SHA-256."""
    path = folder / file
    return BackupFile(file, path.stat().st_size, sha256_of(path), key, content_type, metadata)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(folder: Path, manifest: Manifest) -> None:
    (folder / FILE).write_text(json.dumps(dataclasses.asdict(manifest), indent=1) + "\n")


def read(folder: Path) -> Manifest:
    """Reads a manifest, and verifies size and SHA-256 of all files.

    Raises:
        BackupError: the folder is not a backup, or files are missing or changed.
    """
    try:
        fields = json.loads((folder / FILE).read_text())
        if fields.get("format") != FORMAT:
            raise BackupError(f"{folder.name} must be a backup of format {FORMAT}; received {fields.get('format')!r}")
        manifest = Manifest(**fields | {"pieces": tuple(BackupFile(**entry) for entry in fields["pieces"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackupError(f"{folder.name} must be a backup with a {FILE}; received {type(error).__name__}: {error}") from error
    problems = [f"{file.file}: {problem}" for file in manifest.pieces if (problem := _problem(folder, file))]
    names = {file.file for file in manifest.pieces}
    problems += [f"{name}: is not listed" for name in (DATABASE, SECRETS, TOKENS) if name not in names]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise BackupError(
            f"{folder.name} is damaged and was not restored: {'; '.join(problems[:5])}{more}; restore another backup"
        )
    return manifest


def _problem(folder: Path, file: BackupFile) -> str | None:
    if file.file not in (DATABASE, SECRETS, TOKENS) and not re.fullmatch(r"objects/\d+", file.file):
        return "is not a file of a backup"
    path = folder / file.file
    if path.is_symlink() or not path.is_file():
        return "is missing"
    if path.stat().st_size != file.size_bytes:
        return f"must have {file.size_bytes} bytes; it has {path.stat().st_size}"
    return None if sha256_of(path) == file.sha256 else "has changed since the backup"
