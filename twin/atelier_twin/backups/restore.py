"""`restore`: a backup into an empty twin, after each of its files was checked; then everything is as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from atelier_twin import volume_layout
from atelier_twin.backups import database, manifest
from atelier_twin.backups.backup import Folders
from atelier_twin.backups.bucket import Bucket
from atelier_twin.errors import BackupError
from atelier_twin.secrets import Secrets, restored


def restore(
    name: str | None,
    made: Secrets,
    environment: Mapping[str, str],
    folders: Folders,
    say: Callable[[str], object],
    *,
    replace: bool,
) -> None:
    """Brings one backup back. What was interrupted is mended by the same command with `--replace`.

    Args:
        name: of the backup's folder.
        made: secrets of this twin.
        environment: settings of compose.yaml.
        folders: see there.
        say: takes one line.
        replace: also where something is there already, which is lost.

    Raises:
        BackupError: there is no such backup, it is damaged, or this twin is not empty.
    """
    there = sorted(path.name for path in folders.backups.iterdir() if manifest.NAME.fullmatch(path.name))
    if name not in there:
        raise BackupError(f"restore takes one of the backups that are there: {', '.join(there) or 'none'}; received {name}")
    folder = folders.backups / name
    told = manifest.read(folder)
    bucket = Bucket(made, environment)
    _refuse_what_would_be_lost(made, bucket, replace=replace)
    for piece in told.objects:
        bucket.upload(folder / piece.file, piece)
    with database.opened(made) as opened:
        opened.load(folder / manifest.DATABASE)
    wanted = {piece.key for piece in told.objects}
    for key in [key for key in bucket if key not in wanted]:
        bucket.delete(key)
    kept = json.loads((folder / manifest.SECRETS).read_text())
    volume_layout.replace(restored(made, kept), (folder / manifest.TOKENS).read_text(), folders.secrets, folders.trainer_home)
    say(f"{name} is back: {len(told.objects)} objects, the database, logins and tokens; start with: docker compose up\n")


def _refuse_what_would_be_lost(made: Secrets, bucket: Bucket, *, replace: bool) -> None:
    with database.opened(made) as opened:
        if users := opened.users():
            raise BackupError(
                f"nothing may use the database meanwhile; {', '.join(users)} does: "
                "`docker compose stop tracking registry-api infer`"
            )
        tables = opened.tables()
    count = sum(1 for _ in bucket)
    if (tables or count) and not replace:
        raise BackupError(
            f"restore needs an empty twin; this one has {tables} tables and {count} objects: make a backup of them, then say "
            "--replace, which removes them; or begin with `docker compose down --volumes`"
        )
