"""Keeps the secrets of this machine and those that the tasks read in step; neither side overwrites what the other one changed.

`secrets/synced.json` holds, for each service, digests of both sides as they were when they last agreed. From them follows who
changed what since: only this machine (the change is written to AWS), only AWS (it is taken over), or both (refused).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from atelier_infra.environment.stack import Service
from atelier_infra.errors import AnswerError
from atelier_infra.secrets import credentials, env_files, sync_record
from atelier_infra.secrets.remote_secrets import SecretStore

FLAG = "--overwrite-secrets"


class SecretsSync:
    """The env files of one folder, against the place that the tasks read."""

    def __init__(
        self,
        folder: Path,
        remote: SecretStore,
        console: Console,
        *,
        earlier: SecretStore | None = None,
        overwrite: bool = False,
    ) -> None:
        """Takes both sides.

        Args:
            folder: with the env files of this machine.
            remote: what the tasks read.
            console: for what was done.
            earlier: what they read before `secrets` was changed in terraform.tfvars; asked where `remote` has nothing.
            overwrite: this machine is right where both sides changed, or where nothing is known of an earlier agreement.
        """
        self._folder, self._remote, self._console = folder, remote, console
        self._earlier, self._overwrite = earlier, overwrite

    def adopt(self, services: list[str], *, dry_run: bool) -> None:
        """Brings what AWS holds to this machine, where this machine has nothing of its own to lose.

        Args:
            services: of terraform.tfvars.
            dry_run: say it only.

        Raises:
            AnswerError: a file of this machine was changed, and AWS holds something else. Nothing was changed.
        """
        taken: dict[str, tuple[SecretStore, dict[str, str]]] = {}
        for service in services:
            place, remote = self._find(service)
            local = env_files.read(self._file(service))
            if remote is None or self._overwrite or _within(remote, local):
                continue
            changed_there = sync_record.digest(remote) != self._known(service, "remote")
            if local and changed_there and sync_record.digest(local) != self._known(service, "local"):
                raise self._conflict(service, place)
            if not local or changed_there:
                taken[service] = place, remote
        for service, (place, remote) in taken.items():
            if dry_run:
                self._console.print(f"would adopt the logins of {service} from {place.place(service)}", soft_wrap=True)
                continue
            env_files.write(self._file(service), remote)
            credentials.forget(self._folder, service)
            sync_record.note(self._folder, service, local=remote, remote=remote)
            self._console.print(
                f"[green]✓[/] adopted the logins of {service} from {place.place(service)}",
                highlight=False,
                soft_wrap=True,
            )

    def sync(self, services: dict[str, Service]) -> None:
        """Writes what differs to where the tasks read it.

        Args:
            services: with the variables that each of them needs.

        Raises:
            AnswerError: a file lacks a variable that its service needs, or AWS holds what this machine has never seen.
        """
        for name, service in services.items():
            path = self._file(name)
            values = env_files.read(path)
            if missing := [each for each in service.secret_names if not values.get(each)]:
                raise AnswerError(
                    f"{path} must hold {', '.join(missing)}; add it, or move the file away and let `up` make a new one"
                )
            wanted = {each: values[each] for each in service.secret_names} if service.secret else values
            found = self._remote.read(name)
            if found != wanted:
                lost = found is not None and not _within(found, wanted)
                if found and lost and not self._overwrite and sync_record.digest(found) != self._known(name, "remote"):
                    raise self._conflict(name, self._remote)
                self._remote.write(name, wanted)
            sync_record.note(self._folder, name, local=values, remote=wanted)

    def _find(self, service: str) -> tuple[SecretStore, dict[str, str] | None]:
        for place in filter(None, (self._remote, self._earlier)):
            if (found := place.read(service)) is not None:
                return place, found
        return self._remote, None

    def _conflict(self, service: str, place: SecretStore) -> AnswerError:
        path = self._file(service)
        return AnswerError(
            f"{place.place(service)} differs from {path}, and another machine wrote it; move {path} away to adopt what AWS "
            f"holds, or pass {FLAG} to replace it (logins and tokens of other people may stop working)"
        )

    def _file(self, service: str) -> Path:
        return self._folder / f"{service}.env"

    def _known(self, service: str, side: Literal["local", "remote"]) -> str | None:
        return sync_record.known(self._folder, service, side)


def _within(smaller: dict[str, str], larger: dict[str, str]) -> bool:
    return smaller.items() <= larger.items()
