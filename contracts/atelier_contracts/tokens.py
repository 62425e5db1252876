"""The token file that every service reads: lines `id role sha256-of-token`; `#` starts a comment."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class Role(IntEnum):
    """Each role includes the permissions of the ones before it."""

    reader = 1
    trainer = 2
    promoter = 3
    admin = 4


@dataclass(frozen=True)
class Token:
    """A line of the file. The token itself is never stored."""

    id: str
    role: Role
    sha256: str


class TokenFileError(ValueError):
    """Lines are malformed; the message lists them by number and never contains a hash."""


def parse_tokens(text: str) -> list[Token]:
    """Parses a token file.

    Raises:
        TokenFileError: a line is not `id role sha256`, or an id occurs twice.
    """
    tokens: list[Token] = []
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if len(words) != 3 or words[1] not in Role.__members__ or not re.fullmatch(r"[0-9a-f]{64}", words[2]):
            problems.append(f"line {number}: expected `id role sha256`, role one of {', '.join(Role.__members__)}")
        elif any(token.id == words[0] for token in tokens):
            problems.append(f"line {number}: id {words[0]!r} occurs twice")
        else:
            tokens.append(Token(words[0], Role[words[1]], words[2]))
    if problems:
        raise TokenFileError("token file: " + "; ".join(problems))
    return tokens


class TokenFile:
    """Looks tokens up in a file that is read again when it changes, so that revoking a token needs no restart."""

    def __init__(self, path: Path) -> None:
        self._path, self._stamp, self._tokens = path, (0, 0), parse_tokens(path.read_text())

    def find(self, secret: str) -> Token | None:
        """The token whose hash matches, compared in constant time; None while the file is unreadable or malformed."""
        try:
            status = self._path.stat()
            if (stamp := (status.st_mtime_ns, status.st_size)) != self._stamp:
                self._tokens, self._stamp = parse_tokens(self._path.read_text()), stamp
        except (OSError, ValueError):  # TokenFileError, or bytes that are not UTF-8
            self._tokens, self._stamp = [], (0, 0)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        return next((token for token in self._tokens if hmac.compare_digest(token.sha256, digest)), None)
