"""`restore`: verifies all files of a backup, then loads it into an empty twin."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from atelier_twin import volume_layout
from atelier_twin.backups import database, manifest
from atelier_twin.backups.backup import BackupPaths
from atelier_twin.backups.bucket import Bucket
from atelier_twin.errors import BackupError
from atelier_twin.secrets import Secrets, with_logins_of


class Restore:
    def __init__(
        self, secrets: Secrets, environment: Mapping[str, str], paths: BackupPaths, write: Callable[[str], object]
    ) -> None:
        """Connects to the bucket at the first call.

        Args:
            secrets: secrets of this twin.
            environment: settings of compose.yaml.
            paths: the volumes.
            write: prints one line.
        """
        self._secrets, self._paths, self._write = secrets, paths, write
        self._bucket = Bucket(secrets, environment)

    def run(self, name: str | None, *, replace: bool) -> None:
        """Restores a backup. After an interruption, the same call with `replace` repeats it.

        Args:
            name: name of the backup.
            replace: remove the data of this twin; otherwise it must be empty.

        Raises:
            BackupError: there is no such backup, it is damaged, or this twin is in use or not empty.
        """
        names = sorted(path.name for path in self._paths.backups.iterdir() if manifest.NAME.fullmatch(path.name))
        if name not in names:
            raise BackupError(f"restore needs the name of a backup; received {name}; there are: {', '.join(names) or 'none'}")
        folder = self._paths.backups / name
        contents = manifest.read(folder)
        self._check_empty(replace=replace)
        for file in contents.objects:
            self._bucket.upload(folder / file.file, file)
        with database.connect(self._secrets) as connection:
            connection.load(folder / manifest.DATABASE)
        restored_keys = {file.key for file in contents.objects}
        for key in [key for key in self._bucket if key not in restored_keys]:
            self._bucket.delete(key)
        restored = with_logins_of(self._secrets, json.loads((folder / manifest.SECRETS).read_text()))
        tokens = (folder / manifest.TOKENS).read_text()
        volume_layout.replace(restored, tokens, self._paths.secrets, self._paths.trainer_home)
        self._write(
            f"{name} is restored: {len(contents.objects)} objects, the database, logins and tokens; "
            "start with: docker compose up\n"
        )

    def _check_empty(self, *, replace: bool) -> None:
        with database.connect(self._secrets) as connection:
            if users := connection.connected_users():
                raise BackupError(
                    f"the database must not be in use; connected: {', '.join(users)}; "
                    "run `docker compose stop tracking registry-api infer`"
                )
            tables = connection.table_count()
        objects = sum(1 for _ in self._bucket)
        if (tables or objects) and not replace:
            raise BackupError(
                f"restore needs an empty twin; this one has {tables} tables and {objects} objects: back them up and pass "
                "--replace to remove them, or run `docker compose down --volumes`"
            )
