"""Apache's MD5 password hash `$apr1$`, which nginx supports.

A thousand rounds of MD5 are weak for passwords that people choose, and sufficient for 192 random bits.
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
    """The hash with prefix and salt.

    Args:
        password: any text.
        salt: at most 8 characters of `ALPHABET`; random by default.
    """
    salt = salt or "".join(secrets.choice(ALPHABET) for _ in range(8))
    key, salt_bytes = password.encode(), salt.encode()
    inner = _md5(key, salt_bytes, key)
    start = bytearray(key + b"$apr1$" + salt_bytes)
    for remaining in range(len(key), 0, -16):
        start += inner[: min(16, remaining)]
    bits = len(key)
    while bits:
        start += b"\0" if bits & 1 else key[:1]
        bits >>= 1
    digest = _md5(bytes(start))
    for number in range(ROUNDS):
        digest = _md5(
            key if number & 1 else digest,
            salt_bytes if number % 3 else b"",
            key if number % 7 else b"",
            digest if number & 1 else key,
        )
    groups = [(digest[a] << 16 | digest[b] << 8 | digest[c], 4) for a, b, c in TRIPLES] + [(digest[11], 2)]
    return f"$apr1${salt}$" + "".join(
        ALPHABET[value >> 6 * position & 63] for value, size in groups for position in range(size)
    )


def _md5(*parts: bytes) -> bytes:
    return hashlib.md5(b"".join(parts), usedforsecurity=False).digest()
