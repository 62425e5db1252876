"""Apache's MD5 password hash `$apr1$`, which nginx and the tracking image take.

A thousand rounds of MD5 are little against a password that a person chose, and plenty against 192 random bits.
Source: the file format is described at https://httpd.apache.org/docs/2.4/misc/password_encryptions.html; the algorithm is
Poul-Henning Kamp's md5crypt with another prefix.
"""

from __future__ import annotations

import hashlib
import secrets
import string

ALPHABET = "./" + string.digits + string.ascii_uppercase + string.ascii_lowercase
ROUNDS = 1000
TRIPLES = ((0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5))


def apr1(password: str, salt: str | None = None) -> str:
    """The hash with its prefix and salt.

    Args:
        password: any text.
        salt: at most 8 characters of `ALPHABET`; random where none is given.
    """
    salt = salt or "".join(secrets.choice(ALPHABET) for _ in range(8))
    word, grain = password.encode(), salt.encode()
    inner = _md5(word, grain, word)
    start = bytearray(word + b"$apr1$" + grain)
    for left in range(len(word), 0, -16):
        start += inner[: min(16, left)]
    bits = len(word)
    while bits:
        start += b"\0" if bits & 1 else word[:1]
        bits >>= 1
    digest = _md5(bytes(start))
    for turn in range(ROUNDS):
        digest = _md5(
            word if turn & 1 else digest,
            grain if turn % 3 else b"",
            word if turn % 7 else b"",
            digest if turn & 1 else word,
        )
    groups = [(digest[a] << 16 | digest[b] << 8 | digest[c], 4) for a, b, c in TRIPLES] + [(digest[11], 2)]
    return f"$apr1${salt}$" + "".join(ALPHABET[number >> 6 * place & 63] for number, size in groups for place in range(size))


def _md5(*pieces: bytes) -> bytes:
    return hashlib.md5(b"".join(pieces), usedforsecurity=False).digest()
