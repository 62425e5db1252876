"""Edits the token file under a lock and atomically, so that a running service never reads a partial file."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from atelier_contracts.tokens import Role, Token, TokenFileError, parse_tokens


class TokenEditError(ValueError):
    """The edit was refused or failed; nothing was changed."""


def issue(file: Path, id: str, role: Role) -> str:
    """Adds a token and returns it; the file stores only its hash. Creates a missing file, readable by its owner alone.

    Raises:
        TokenEditError: the id is taken or invalid, or the file cannot be read or written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}", id):
        raise TokenEditError(f"an id consists of at most 100 letters, digits and . _ @ -; received {id!r}")
    secret = secrets.token_urlsafe(32)
    with _edit_lines(file) as lines:
        if any(token.id == id for token in _parse(lines)):
            raise TokenEditError(f"{id} already has a token; revoke it first, or choose another id")
        lines.append(f"{id} {role.name} {hashlib.sha256(secret.encode()).hexdigest()}")
    return secret


def revoke(file: Path, id: str) -> None:
    """Removes a token; running services notice with the next request.

    Raises:
        TokenEditError: no token has this id, or the file cannot be read or written.
    """
    with _edit_lines(file) as lines:
        known = [token.id for token in _parse(lines)]
        if id not in known:
            raise TokenEditError(f"no token has the id {id!r}; existing ids: {', '.join(known) or 'none'}")
        lines[:] = [line for line in lines if line.split("#", 1)[0].split()[:1] != [id]]


def list_tokens(file: Path) -> list[Token]:
    """Raises `TokenEditError` where the file cannot be read."""
    try:
        return _parse(file.read_text().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise TokenEditError(f"{file} cannot be read: {error}") from None


def _parse(lines: list[str]) -> list[Token]:
    try:
        return parse_tokens("\n".join(lines))
    except TokenFileError as error:
        raise TokenEditError(str(error)) from None


@contextlib.contextmanager
def _edit_lines(file: Path) -> Iterator[list[str]]:
    """The file's lines, written back when the block succeeds. The lock is on a second file, which remains."""
    try:
        with file.with_name(f".{file.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lines = file.read_text().splitlines() if file.exists() else []
            yield lines
            _replace(file, "".join(f"{line}\n" for line in lines))
    except (OSError, UnicodeDecodeError) as error:
        raise TokenEditError(f"{file} cannot be edited: {error}; its folder must be writable too") from None


def _replace(file: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # readable by its owner alone
    partial = Path(name)
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        if file.exists():  # keep its permissions and owner
            status = file.stat()
            partial.chmod(status.st_mode & 0o777)
            with contextlib.suppress(PermissionError):
                os.chown(partial, status.st_uid, status.st_gid)
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
