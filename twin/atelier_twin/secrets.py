"""All secrets of the twin: generated at random once, and stored in a file that only root can read."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from atelier_twin.errors import SecretsError

PEOPLE = {"admin": "admin"}
SERVICES = {"trainer": "trainer", "registry-api": "promoter", "infer": "reader"}
LOGINS = PEOPLE | SERVICES
"""Login of tracking → role."""

ROLES = ("reader", "trainer", "promoter", "admin")
TOKENS = {role: role for role in ROLES} | {"first-version": "promoter", "registry-api": "promoter", "infer": "reader"}
"""Token of registry-api and infer → role: one for each role to give to people, one for the job first-version, and one for
each service to call the other (registry-api has infer generate validation images; infer receives registry-api's events)."""

DATABASE_USERS = ("postgres", "tracking", "atelier_registry")


@dataclass(frozen=True)
class Secrets:
    """Passwords and tokens by name; printed by the job `login` only."""

    logins: dict[str, str]
    tokens: dict[str, str]
    database: dict[str, str]
    s3_access_key_id: str
    s3_secret_access_key: str


def generate(environment: Mapping[str, str]) -> Secrets:
    """Generates secrets, except the S3 keys if the environment has them (for an S3 other than LocalStack).

    Raises:
        SecretsError: one of the two keys is set without the other.
    """
    key_id, key = environment.get("S3_ACCESS_KEY_ID", ""), environment.get("S3_SECRET_ACCESS_KEY", "")
    if bool(key_id) != bool(key):
        raise SecretsError("S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY must be set together; received one of them")
    return Secrets(
        logins={name: secrets.token_urlsafe(24) for name in LOGINS},
        tokens={name: secrets.token_urlsafe(24) for name in TOKENS},
        database={name: secrets.token_urlsafe(24) for name in DATABASE_USERS},
        s3_access_key_id=key_id or f"twin{secrets.token_hex(8)}",
        s3_secret_access_key=key or secrets.token_urlsafe(30),
    )


def read_or_generate(file: Path, environment: Mapping[str, str]) -> tuple[Secrets, bool]:
    """The stored secrets, or new ones; and whether they are new.

    Raises:
        SecretsError: the file is damaged or cannot be written.
    """
    generated = False
    try:
        if file.exists():
            stored = Secrets(**json.loads(file.read_text()))
            if stored.tokens.keys() == TOKENS.keys():
                return stored, False
            current = dataclasses.replace(stored, tokens=generate({}).tokens | stored.tokens)  # a newer release has more tokens
        else:
            current, generated = generate(environment), True
        write(file, current)
    except (OSError, ValueError, TypeError) as error:
        remedy = "`docker compose down --volumes` removes the twin's data, and the next start generates new secrets"
        raise SecretsError(
            f"{file} must contain this twin's secrets; received {type(error).__name__}: {error}; {remedy}"
        ) from error
    return current, generated


def with_logins_of(current: Secrets, backup: Mapping[str, Mapping[str, str]]) -> Secrets:
    """The current secrets with logins and tokens of a backup; passwords of the database and S3 stay."""
    logins, tokens = current.logins | dict(backup["logins"]), current.tokens | dict(backup["tokens"])
    return dataclasses.replace(current, logins=logins, tokens=tokens)


def write(file: Path, values: Secrets) -> None:
    """Writes the file atomically, with mode 0600."""
    partial = file.with_suffix(".part")
    partial.touch(mode=0o600)
    partial.write_text(json.dumps(dataclasses.asdict(values), indent=2))
    descriptor = os.open(partial, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    partial.replace(file)
