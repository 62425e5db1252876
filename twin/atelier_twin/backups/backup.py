"""`backup`: both schemas of the database in one snapshot, every object, and people's logins and tokens, into one folder."""

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
class Folders:
    """Where things are, in the containers of `backup` and `restore`."""

    backups: Path = Path("/backups")
    secrets: Path = Path("/secrets")
    trainer_home: Path = Path("/trainer-home")


def make(made: Secrets, environment: Mapping[str, str], folders: Folders, say: Callable[[str], object]) -> Path:
    """Makes one; it has its name only once it is complete.

    The objects are read after the dump: every file that one of its rows names is there.

    Args:
        made: the twin's secrets.
        environment: settings of compose.yaml.
        folders: see there.
        say: takes one line.

    Raises:
        BackupError: PostgreSQL refused the dump.
    """
    begun = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    work = folders.backups / (begun + PARTIAL)
    owner = folders.backups.stat()
    (work / "objects").mkdir(parents=True, mode=0o700)
    with database.opened(made) as opened:
        opened.dump(work / manifest.DATABASE)
        revisions = {schema: opened.revision(schema) for schema in database.SCHEMAS}
        version = opened.version()
    kept = {"logins": made.logins, "tokens": made.tokens}
    (work / manifest.SECRETS).write_text(json.dumps(kept, indent=1) + "\n")
    shutil.copyfile(folders.secrets / "tokens/tokens", work / manifest.TOKENS)
    pieces = [manifest.piece_of(work, name) for name in (manifest.DATABASE, manifest.SECRETS, manifest.TOKENS)]
    bucket = Bucket(made, environment)
    for number, key in enumerate(bucket):
        file = f"objects/{number}"
        if (described := bucket.download(key, work / file)) is not None:
            pieces.append(manifest.piece_of(work, file, key=key, content_type=described[0], metadata=described[1]))
    told = manifest.Manifest(
        begun, environment["ATELIER_TAG"], importlib.metadata.version("mlflow"), version, revisions, tuple(pieces)
    )
    manifest.write(work, told)
    for path in (work, *work.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.chown(path, owner.st_uid, owner.st_gid)
    work.rename(folders.backups / begun)
    say(f"{begun}: {len(told.objects)} objects and the database, {told.size_bytes / 1e6:.1f} MB; it holds logins and tokens\n")
    say(f"bring it back with: docker compose run --rm restore {begun}\n")
    return folders.backups / begun
