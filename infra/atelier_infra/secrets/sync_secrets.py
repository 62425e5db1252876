"""Synchronizes the env files of this machine with the secrets that tasks read, without overwriting changes on either side.

`secrets/synced.json` has digests of both sides after the last synchronization. They show what has changed since: this machine
only (written to AWS), AWS only (adopted), or both (refused).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from atelier_infra.environment.stack import Service
from atelier_infra.errors import InputError
from atelier_infra.secrets import credentials, env_files, sync_record
from atelier_infra.secrets.remote_secrets import SecretStore

FLAG = "--overwrite-secrets"


class SecretsSync:
    def __init__(
        self,
        folder: Path,
        remote: SecretStore,
        console: Console,
        *,
        previous: SecretStore | None = None,
        overwrite: bool = False,
    ) -> None:
        """Names both sides.

        Args:
            folder: folder of this machine's env files.
            remote: the store that tasks read.
            console: for progress.
            previous: the store before `secrets` was changed in terraform.tfvars; read if `remote` is empty.
            overwrite: this machine's secrets win where both sides changed, or if there was no synchronization yet.
        """
        self._folder, self._remote, self._console = folder, remote, console
        self._previous, self._overwrite = previous, overwrite

    def adopt(self, services: list[str], *, dry_run: bool) -> None:
        """Copies secrets from AWS to this machine where this machine has no changes of its own.

        Raises:
            InputError: both sides changed; nothing was copied.
        """
        adopted: dict[str, tuple[SecretStore, dict[str, str]]] = {}
        for service in services:
            store, remote = self._find(service)
            local = env_files.read(self._file(service))
            if remote is None or self._overwrite or _is_subset(remote, local):
                continue
            remote_changed = sync_record.digest(remote) != self._synced_digest(service, "remote")
            if local and remote_changed and sync_record.digest(local) != self._synced_digest(service, "local"):
                raise self._conflict(service, store)
            if not local or remote_changed:
                adopted[service] = store, remote
        for service, (store, remote) in adopted.items():
            if dry_run:
                self._console.print(f"would adopt the secrets of {service} from {store.location(service)}", soft_wrap=True)
                continue
            env_files.write(self._file(service), remote)
            credentials.remove_logins(self._folder, service)
            sync_record.write(self._folder, service, local=remote, remote=remote)
            self._console.print(
                f"[green]✓[/] adopted the secrets of {service} from {store.location(service)}",
                highlight=False,
                soft_wrap=True,
            )

    def sync(self, services: dict[str, Service]) -> None:
        """Writes secrets that differ to the store that tasks read.

        Raises:
            InputError: an env file lacks a variable that its service needs, or another machine changed the store.
        """
        for name, service in services.items():
            path = self._file(name)
            values = env_files.read(path)
            if missing := [variable for variable in service.secret_names if not values.get(variable)]:
                raise InputError(
                    f"{path} must contain {', '.join(missing)}; add it, or move the file away and run `up` to create a new one"
                )
            local = {variable: values[variable] for variable in service.secret_names} if service.secret else values
            remote = self._remote.read(name)
            if remote != local:
                loses_values = remote is not None and not _is_subset(remote, local)
                if (
                    remote
                    and loses_values
                    and not self._overwrite
                    and sync_record.digest(remote) != self._synced_digest(name, "remote")
                ):
                    raise self._conflict(name, self._remote)
                self._remote.write(name, local)
            sync_record.write(self._folder, name, local=values, remote=local)

    def _find(self, service: str) -> tuple[SecretStore, dict[str, str] | None]:
        for store in filter(None, (self._remote, self._previous)):
            if (values := store.read(service)) is not None:
                return store, values
        return self._remote, None

    def _conflict(self, service: str, store: SecretStore) -> InputError:
        path = self._file(service)
        return InputError(
            f"{store.location(service)} differs from {path}, and another machine wrote it; move {path} away to adopt the "
            f"secrets of AWS, or pass {FLAG} to replace them (logins and tokens of other people may stop working)"
        )

    def _file(self, service: str) -> Path:
        return self._folder / f"{service}.env"

    def _synced_digest(self, service: str, side: Literal["local", "remote"]) -> str | None:
        return sync_record.read_digest(self._folder, service, side)


def _is_subset(smaller: dict[str, str], larger: dict[str, str]) -> bool:
    return smaller.items() <= larger.items()
