"""What a backup holds: `manifest.json`, with a SHA-256 of each of its files, so that a damaged one is never restored."""

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
"""A backup's folder is called by the time at which it was begun, in UTC."""


@dataclass(frozen=True)
class Piece:
    """One file of the backup.

    Attributes:
        file: path below the backup's folder.
        size_bytes: its length.
        sha256: of its bytes.
        key: of the object that it was; None for what is no object.
        content_type: of the object.
        metadata: of the object.
    """

    file: str
    size_bytes: int
    sha256: str
    key: str | None = None
    content_type: str | None = None
    metadata: dict[str, str] | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything about one backup.

    Attributes:
        made_at: when it was begun.
        image_tag: of the images that ran.
        mlflow: version of MLflow in the image that made it.
        postgres: version of the server.
        revisions: of the two schemas of tables, by schema; None where the service never started.
        pieces: every file but this one.
    """

    made_at: str
    image_tag: str
    mlflow: str
    postgres: str
    revisions: dict[str, str | None]
    pieces: tuple[Piece, ...]
    format: int = FORMAT

    @property
    def objects(self) -> list[Piece]:
        """The files that were objects of the bucket."""
        return [piece for piece in self.pieces if piece.key is not None]

    @property
    def size_bytes(self) -> int:
        return sum(piece.size_bytes for piece in self.pieces)


def piece_of(
    folder: Path, file: str, *, key: str | None = None, content_type: str | None = None, metadata: dict[str, str] | None = None
) -> Piece:
    """Describes a file that was written already."""
    path = folder / file
    return Piece(file, path.stat().st_size, sha256_of(path), key, content_type, metadata)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(folder: Path, manifest: Manifest) -> None:
    (folder / FILE).write_text(json.dumps(dataclasses.asdict(manifest), indent=1) + "\n")


def read(folder: Path) -> Manifest:
    """Reads and checks a backup: each file is there, as long as it was, and has the same bytes.

    Raises:
        BackupError: it is none, is not complete, or was changed.
    """
    try:
        told = json.loads((folder / FILE).read_text())
        if told.get("format") != FORMAT:
            raise BackupError(f"{folder.name} must be a backup of format {FORMAT}; received {told.get('format')!r}")
        manifest = Manifest(**told | {"pieces": tuple(Piece(**each) for each in told["pieces"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackupError(f"{folder.name} must be a backup with a {FILE}; received {type(error).__name__}: {error}") from error
    wrong = [f"{piece.file}: {problem}" for piece in manifest.pieces if (problem := _problem(folder, piece))]
    files = {piece.file for piece in manifest.pieces}
    wrong += [f"{name}: is not listed" for name in (DATABASE, SECRETS, TOKENS) if name not in files]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise BackupError(f"{folder.name} is damaged, nothing was restored: {'; '.join(wrong[:5])}{more}; take another backup")
    return manifest


def _problem(folder: Path, piece: Piece) -> str | None:
    if piece.file not in (DATABASE, SECRETS, TOKENS) and not re.fullmatch(r"objects/\d+", piece.file):
        return "is no file of a backup"
    path = folder / piece.file
    if path.is_symlink() or not path.is_file():
        return "is missing"
    if path.stat().st_size != piece.size_bytes:
        return f"must have {piece.size_bytes} bytes; it has {path.stat().st_size}"
    return None if sha256_of(path) == piece.sha256 else "has other bytes than when it was made"
