"""Writes each container's secrets to its own folder of the volume, and copies files of the repository to volumes.

Files are copied because a checkout is often readable by its owner only, and containers run as other users.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from atelier_twin.errors import SecretsError
from atelier_twin.htpasswd import apr1
from atelier_twin.secrets import LOGINS, TOKENS, Secrets, generate, with_logins_of, write

USERS = {"postgres": 999, "tracking": 10001, "registry-api": 10002, "infer": 10003, "first-version": 10004}
"""Container → user id: that of the official image for PostgreSQL, those of our Dockerfiles for the others."""

TRAINER_USER = 10004
TOKENS_GROUP = 10000
"""registry-api and infer share a token file, so that a token is revoked in one place; compose.yaml adds both to the group."""

TOKEN_FILE = "tokens/tokens"  # noqa: S105  # a path

RESTART_COMMAND = "docker compose up --detach --force-recreate tracking registry-api infer"

PEER_TOKEN_FILES = {"registry-api": "registry-api/infer_token", "infer": "infer/registry_token"}
"""Service → file with its token for the other service."""


@dataclass(frozen=True)
class SecretFile:
    """One file: path in the volume, content, owner."""

    path: str
    text: str
    user: int
    group: int


def secret_files(secrets: Secrets) -> list[SecretFile]:
    """All files of the volume except secrets.json."""
    htpasswd = "".join(f"{name}:{apr1(secrets.logins[name])}\n" for name in LOGINS)
    roles = "".join(f"{name} {role}\n" for name, role in LOGINS.items())
    tokens = "".join(_token_line(secrets, name) for name in TOKENS)
    files = {
        "postgres": {f"{name}_password": password for name, password in secrets.database.items()},
        "tracking": {
            "db_password": secrets.database["tracking"],
            "htpasswd": htpasswd,
            "roles": roles,
            "s3_access_key_id": secrets.s3_access_key_id,
            "s3_secret_access_key": secrets.s3_secret_access_key,
        },
        "registry-api": {
            "tracking_password": secrets.logins["registry-api"],
            "db_password": secrets.database["atelier_registry"],
            "infer_token": secrets.tokens["registry-api"],
        },
        "infer": {"tracking_password": secrets.logins["infer"], "registry_token": secrets.tokens["infer"]},
        "first-version": {"token": secrets.tokens["first-version"]},
    }
    private = [
        SecretFile(f"{folder}/{name}", text, USERS[folder], USERS[folder])
        for folder, contents in files.items()
        for name, text in contents.items()
    ]
    return [*private, SecretFile(TOKEN_FILE, tokens, 0, TOKENS_GROUP)]


def _token_line(secrets: Secrets, name: str) -> str:
    return f"{name} {TOKENS[name]} {hashlib.sha256(secrets.tokens[name].encode()).hexdigest()}\n"


@dataclass(frozen=True)
class VolumePaths:
    """Paths of volumes and of mounted repository files in the container of the job."""

    secrets: Path = Path("/secrets")
    trainer_home: Path = Path("/trainer-home")
    postgres_init: Path = Path("/postgres-init")
    jobs: Path = Path("/twin/atelier_twin")
    roles: Path = Path("/twin/postgres/roles.sql")
    base: Path = Path("/models/tiny-sd")


def populate(secrets: Secrets, paths: VolumePaths) -> None:
    """Writes missing secret files and copies files of the repository. Existing files stay: tokens may have been revoked.

    Raises:
        SecretsError: a file or its owner cannot be written.
    """
    login = f"[mlflow]\nmlflow_tracking_username = trainer\nmlflow_tracking_password = {secrets.logins['trainer']}\n"
    try:
        _add_missing_peer_tokens(secrets, paths.secrets)
        for file in secret_files(secrets):
            _write(paths.secrets / file.path, file)
        os.chown(paths.trainer_home, TRAINER_USER, TRAINER_USER)
        _write(paths.trainer_home / ".mlflow/credentials", SecretFile("", login, TRAINER_USER, TRAINER_USER))
        _copy_for_user(paths.base, paths.trainer_home / "models" / paths.base.name, TRAINER_USER)
        _copy_for_user(paths.jobs, paths.secrets / "first-version" / paths.jobs.name, USERS["first-version"])
        _copy_for_user(paths.roles, paths.postgres_init / paths.roles.name, USERS["postgres"])
    except OSError as error:
        raise SecretsError(f"the secrets cannot be written: {error}") from error


def replace(secrets: Secrets, tokens: str, volume: Path, trainer_home: Path) -> None:
    """Replaces all secret files.

    Args:
        secrets: the new secrets.
        tokens: the new token file, with tokens of people and of `secrets`.
        volume: folder of the secrets volume.
        trainer_home: home of the trainer, whose login is removed and written at the next start.

    Raises:
        SecretsError: a file or its owner cannot be written.
    """
    try:
        for file in secret_files(secrets):
            (volume / file.path).unlink(missing_ok=True)
            _write(volume / file.path, dataclasses.replace(file, text=tokens) if file.path == TOKEN_FILE else file)
        (trainer_home / ".mlflow/credentials").unlink(missing_ok=True)
        write(volume / "secrets.json", secrets)
    except OSError as error:
        raise SecretsError(f"the secrets cannot be written: {error}") from error


def rotate(secrets: Secrets, paths: VolumePaths) -> None:
    """Replaces logins and tokens, except tokens issued to people; services read them when they are recreated.

    Args:
        secrets: the current secrets; the passwords of the database and S3 are kept.
        paths: the volumes.

    Raises:
        SecretsError: a file cannot be read or written.
    """
    generated = generate({})
    new = with_logins_of(secrets, {"logins": generated.logins, "tokens": generated.tokens})
    try:
        lines = (paths.secrets / TOKEN_FILE).read_text().splitlines()
    except OSError as error:
        raise SecretsError(f"the tokens cannot be read: {error}; start the twin first") from error
    issued = "".join(f"{line}\n" for line in lines if line.split()[:1] and line.split()[0] not in TOKENS)
    replace(new, "".join(_token_line(new, name) for name in TOKENS) + issued, paths.secrets, paths.trainer_home)
    populate(new, paths)


def _add_missing_peer_tokens(secrets: Secrets, volume: Path) -> None:
    """Adds tokens that an older release did not have to the token file.

    A token that was revoked is not added again: the service's own file of it exists.
    """
    file = volume / TOKEN_FILE
    if file.exists():
        listed = {line.split()[0] for line in file.read_text().splitlines() if line.split()}
        missing = [name for name, path in PEER_TOKEN_FILES.items() if name not in listed and not (volume / path).exists()]
        if missing:
            partial = file.with_name(file.name + ".part")
            partial.touch(mode=0o600)
            partial.write_text(file.read_text() + "".join(_token_line(secrets, name) for name in missing))
            partial.replace(file)


def _write(path: Path, file: SecretFile) -> None:
    shared = file.user != file.group
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        partial = path.with_name(path.name + ".part")
        partial.touch(mode=0o600)
        partial.write_text(file.text)
        partial.replace(path)
    for target, mode in ((path, 0o440 if shared else 0o400), (path.parent, 0o550 if shared else 0o500)):
        target.chmod(mode)
        os.chown(target, file.user, file.group)


def _copy_for_user(source: Path, target: Path, user: int) -> None:
    """Copies a file or folder that one user may read; equal files are not written."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for child in source.iterdir():
            if child.name != "__pycache__":
                _copy_for_user(child, target / child.name, user)
    elif not (target.exists() and target.read_bytes() == source.read_bytes()):
        partial = target.with_name(target.name + ".part")
        shutil.copyfile(source, partial)
        partial.replace(target)
    target.chmod(0o500 if source.is_dir() else 0o400)
    os.chown(target, user, user)
