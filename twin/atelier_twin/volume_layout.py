"""Which container finds what where: secrets in a folder for each, that its user alone can open; and files of the repository.

A checkout is often readable for its owner alone, and the containers run as users of their own: so what they need of it is put
into volumes here, by the one job that may read everything.
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
from atelier_twin.secrets import LOGINS, TOKENS, Secrets, make, restored, write

USERS = {"postgres": 999, "tracking": 10001, "registry-api": 10002, "infer": 10003, "first-version": 10004}
"""The user that each container runs as: the official image's for PostgreSQL, our Dockerfiles' for the others."""

TRAINER_USER = 10004
TOKENS_GROUP = 10000
"""registry-api and infer share one token file, so that a token is revoked in one place; compose.yaml adds both to the group."""


PEOPLE_FILE = "tokens/tokens"

RESTART = "docker compose up --detach --force-recreate tracking registry-api infer"

OWN_TOKENS = {"registry-api": "registry-api/infer_token", "infer": "infer/registry_token"}
"""Where a service finds the token that it shows to the other one."""


@dataclass(frozen=True)
class Entry:
    """One file, with the path below the volume and who may read it."""

    path: str
    text: str
    user: int
    group: int


def entries(made: Secrets) -> list[Entry]:
    """Every file of the volume but the one that they are all made from."""
    htpasswd = "".join(f"{name}:{apr1(made.logins[name])}\n" for name in LOGINS)
    roles = "".join(f"{name} {role}\n" for name, role in LOGINS.items())
    tokens = "".join(_token_line(made, name) for name in TOKENS)
    files = {
        "postgres": {f"{name}_password": password for name, password in made.database.items()},
        "tracking": {
            "db_password": made.database["tracking"],
            "htpasswd": htpasswd,
            "roles": roles,
            "s3_access_key_id": made.s3_access_key_id,
            "s3_secret_access_key": made.s3_secret_access_key,
        },
        "registry-api": {
            "tracking_password": made.logins["registry-api"],
            "db_password": made.database["atelier_registry"],
            "infer_token": made.tokens["registry-api"],
        },
        "infer": {"tracking_password": made.logins["infer"], "registry_token": made.tokens["infer"]},
        "first-version": {"token": made.tokens["first-version"]},
    }
    private = [
        Entry(f"{folder}/{name}", text, USERS[folder], USERS[folder])
        for folder, named in files.items()
        for name, text in named.items()
    ]
    return [*private, Entry(PEOPLE_FILE, tokens, 0, TOKENS_GROUP)]


def _token_line(made: Secrets, name: str) -> str:
    return f"{name} {TOKENS[name]} {hashlib.sha256(made.tokens[name].encode()).hexdigest()}\n"


@dataclass(frozen=True)
class Places:
    """Where things are, in the container of the job."""

    secrets: Path = Path("/secrets")
    trainer_home: Path = Path("/trainer-home")
    postgres_init: Path = Path("/postgres-init")
    jobs: Path = Path("/twin/atelier_twin")
    roles: Path = Path("/twin/postgres/roles.sql")
    base: Path = Path("/models/tiny-sd")


def lay_out(made: Secrets, places: Places) -> None:
    """Writes every secret that is missing; one that is there stays as it is, since tokens may have been revoked in it.

    Args:
        made: what to write.
        places: the volumes, and the files of the repository that go into them.

    Raises:
        SecretsError: a file cannot be written, or cannot be given to its user.
    """
    login = f"[mlflow]\nmlflow_tracking_username = trainer\nmlflow_tracking_password = {made.logins['trainer']}\n"
    try:
        _admit(made, places.secrets)
        for entry in entries(made):
            _write(places.secrets / entry.path, entry)
        os.chown(places.trainer_home, TRAINER_USER, TRAINER_USER)
        _write(places.trainer_home / ".mlflow/credentials", Entry("", login, TRAINER_USER, TRAINER_USER))
        _lend(places.base, places.trainer_home / "models" / places.base.name, TRAINER_USER)
        _lend(places.jobs, places.secrets / "first-version" / places.jobs.name, USERS["first-version"])
        _lend(places.roles, places.postgres_init / places.roles.name, USERS["postgres"])
    except OSError as error:
        raise SecretsError(f"the secrets cannot be laid out: {error}") from error


def replace(made: Secrets, tokens: str, secrets: Path, trainer_home: Path) -> None:
    """Writes every secret anew, those of a backup.

    Args:
        made: what to write.
        tokens: text of the token file, in which people's tokens stand beside those of `made`.
        secrets: the volume.
        trainer_home: the trainer's, whose login the next start writes.

    Raises:
        SecretsError: a file cannot be written, or cannot be given to its user.
    """
    try:
        for entry in entries(made):
            (secrets / entry.path).unlink(missing_ok=True)
            _write(secrets / entry.path, dataclasses.replace(entry, text=tokens) if entry.path == PEOPLE_FILE else entry)
        (trainer_home / ".mlflow/credentials").unlink(missing_ok=True)
        write(secrets / "secrets.json", made)
    except OSError as error:
        raise SecretsError(f"the secrets cannot be laid out: {error}") from error


def rotate(made: Secrets, places: Places) -> None:
    """New logins and tokens for all but the people who were issued one; services read them when they are started anew.

    Args:
        made: the old ones; the passwords of the database and of S3 stay.
        places: the volumes.

    Raises:
        SecretsError: a file cannot be written.
    """
    fresh = make({})
    new = restored(made, {"logins": fresh.logins, "tokens": fresh.tokens})
    try:
        lines = (places.secrets / PEOPLE_FILE).read_text().splitlines()
    except OSError as error:
        raise SecretsError(f"the tokens cannot be read: {error}; start the twin first") from error
    issued = "".join(f"{line}\n" for line in lines if line.split()[:1] and line.split()[0] not in TOKENS)
    replace(new, "".join(_token_line(new, name) for name in TOKENS) + issued, places.secrets, places.trainer_home)
    lay_out(new, places)


def _admit(made: Secrets, secrets: Path) -> None:
    """Lets a service in that an older release of the twin had no token for: its own copy of the token is written after this.

    A line that was taken out of the token file stays out of it, since that service's copy is there.
    """
    file = secrets / PEOPLE_FILE
    if file.exists():
        known = {line.split()[0] for line in file.read_text().splitlines() if line.split()}
        missing = [name for name, copy in OWN_TOKENS.items() if name not in known and not (secrets / copy).exists()]
        if missing:
            partial = file.with_name(file.name + ".part")
            partial.touch(mode=0o600)
            partial.write_text(file.read_text() + "".join(_token_line(made, name) for name in missing))
            partial.replace(file)


def _write(path: Path, entry: Entry) -> None:
    shared = entry.user != entry.group
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        partial = path.with_name(path.name + ".part")
        partial.touch(mode=0o600)
        partial.write_text(entry.text)
        partial.replace(path)
    for each, mode in ((path, 0o440 if shared else 0o400), (path.parent, 0o550 if shared else 0o500)):
        each.chmod(mode)
        os.chown(each, entry.user, entry.group)


def _lend(source: Path, to: Path, user: int) -> None:
    """Copies a file or a folder that one user may read; files that are equal already are left alone."""
    if source.is_dir():
        to.mkdir(parents=True, exist_ok=True)
        for child in source.iterdir():
            if child.name != "__pycache__":
                _lend(child, to / child.name, user)
    elif not (to.exists() and to.read_bytes() == source.read_bytes()):
        partial = to.with_name(to.name + ".part")
        shutil.copyfile(source, partial)
        partial.replace(to)
    to.chmod(0o500 if source.is_dir() else 0o400)
    os.chown(to, user, user)
