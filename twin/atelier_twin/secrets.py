"""Every secret of the twin: made once, at random, and kept in one file that only root can read."""

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
"""Logins of tracking, and their roles there."""

ROLES = ("reader", "trainer", "promoter", "admin")
TOKENS = {role: role for role in ROLES} | {"first-version": "promoter", "registry-api": "promoter", "infer": "reader"}
"""Tokens of registry-api and infer, and their roles: one to hand out for each role, one for the job, one for what each of
the two asks of the other: registry-api lets infer draw versions, infer listens to registry-api's events."""

DATABASE_USERS = ("postgres", "tracking", "atelier_registry")


@dataclass(frozen=True)
class Secrets:
    """Everything; nothing here is ever printed but by the job `login`."""

    logins: dict[str, str]
    tokens: dict[str, str]
    database: dict[str, str]
    s3_access_key_id: str
    s3_secret_access_key: str


def make(environment: Mapping[str, str]) -> Secrets:
    """New ones. S3 keys are taken from the environment where an S3 other than LocalStack wants its own.

    Raises:
        SecretsError: one of the two keys is given without the other.
    """
    key_id, key = environment.get("S3_ACCESS_KEY_ID", ""), environment.get("S3_SECRET_ACCESS_KEY", "")
    if bool(key_id) != bool(key):
        raise SecretsError("S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY: set both or none; received one of them")
    return Secrets(
        logins={name: secrets.token_urlsafe(24) for name in LOGINS},
        tokens={name: secrets.token_urlsafe(24) for name in TOKENS},
        database={name: secrets.token_urlsafe(24) for name in DATABASE_USERS},
        s3_access_key_id=key_id or f"twin{secrets.token_hex(8)}",
        s3_secret_access_key=key or secrets.token_urlsafe(30),
    )


def read_or_make(file: Path, environment: Mapping[str, str]) -> tuple[Secrets, bool]:
    """The secrets of this twin, and whether they were made just now.

    Raises:
        SecretsError: the file is there and not readable as what this module writes, or cannot be written.
    """
    fresh = False
    try:
        if file.exists():
            kept = Secrets(**json.loads(file.read_text()))
            if kept.tokens.keys() == TOKENS.keys():
                return kept, False
            made = dataclasses.replace(kept, tokens=make({}).tokens | kept.tokens)  # a newer release has more of them
        else:
            made, fresh = make(environment), True
        write(file, made)
    except (OSError, ValueError, TypeError) as error:
        again = "`docker compose down --volumes` removes the twin's data and the next start makes new ones"
        raise SecretsError(
            f"{file} must hold this twin's secrets; received {type(error).__name__}: {error}; {again}"
        ) from error
    return made, fresh


def restored(made: Secrets, kept: Mapping[str, Mapping[str, str]]) -> Secrets:
    """This twin's secrets with the logins and tokens of a backup; the database and S3 keep the passwords they have here."""
    return dataclasses.replace(made, logins=made.logins | dict(kept["logins"]), tokens=made.tokens | dict(kept["tokens"]))


def write(file: Path, made: Secrets) -> None:
    partial = file.with_suffix(".part")
    partial.touch(mode=0o600)
    partial.write_text(json.dumps(dataclasses.asdict(made), indent=2))
    descriptor = os.open(partial, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    partial.replace(file)
