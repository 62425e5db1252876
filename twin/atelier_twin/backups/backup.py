"""`backup`: writes both database schemas as one snapshot, all objects, logins and tokens to a folder."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from atelier_twin.backups import database, manifest
from atelier_twin.backups.bucket import Bucket
from atelier_twin.secrets import Secrets

PARTIAL = ".partial"


@dataclass(frozen=True)
class BackupPaths:
    """Paths of volumes in the containers of `backup` and `restore`."""

    backups: Path = Path("/backups")
    secrets: Path = Path("/secrets")
    trainer_home: Path = Path("/trainer-home")


def create(secrets: Secrets, environment: Mapping[str, str], paths: BackupPaths, write: Callable[[str], object]) -> Path:
    """Creates a backup, in a folder that is renamed to its final name when it is complete.

    Objects are read after the dump, so that every file that its rows reference is included.

    Args:
        secrets: the twin's secrets.
        environment: settings of compose.yaml.
        paths: the volumes.
        write: prints one line.

    Raises:
        BackupError: PostgreSQL refused the dump.
    """
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    work = paths.backups / (name + PARTIAL)
    owner = paths.backups.stat()
    (work / "objects").mkdir(parents=True, mode=0o700)
    with database.connect(secrets) as connection:
        connection.dump(work / manifest.DATABASE)
        revisions = {schema: connection.revision(schema) for schema in database.SCHEMAS}
        version = connection.server_version()
    credentials = {"logins": secrets.logins, "tokens": secrets.tokens}
    (work / manifest.SECRETS).write_text(json.dumps(credentials, indent=1) + "\n")
    shutil.copyfile(paths.secrets / "tokens/tokens", work / manifest.TOKENS)
    files = [manifest.describe(work, file) for file in (manifest.DATABASE, manifest.SECRETS, manifest.TOKENS)]
    bucket = Bucket(secrets, environment)
    for number, key in enumerate(bucket):
        path = f"objects/{number}"
        if (headers := bucket.download(key, work / path)) is not None:
            content_type, metadata = headers
            files.append(manifest.describe(work, path, key=key, content_type=content_type, metadata=metadata))
    contents = manifest.Manifest(
        name, environment["ATELIER_TAG"], importlib.metadata.version("mlflow"), version, revisions, tuple(files)
    )
    manifest.write(work, contents)
    for path_ in (work, *work.rglob("*")):
        path_.chmod(0o700 if path_.is_dir() else 0o600)
        os.chown(path_, owner.st_uid, owner.st_gid)
    work.rename(paths.backups / name)
    size_mb = contents.size_bytes / 1e6
    write(f"{name}: {len(contents.objects)} objects and the database, {size_mb:.1f} MB; it holds logins and tokens\n")
    write(f"restore with: docker compose run --rm restore {name}\n")
    return paths.backups / name
