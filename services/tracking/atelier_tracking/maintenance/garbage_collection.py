"""Removes for good what people deleted in MLflow, and nothing that a registered version needs.

MLflow's own `gc` looks at the deletion alone: a trainer who deletes the run of a champion takes the champion's files with it.
Here every version that is registered keeps its run, its logged model and the folder that its source points at; aliases, the
decisions of registry-api and bundles are all versions, or point at them. Files go before rows, so that an interrupted run is
found again by the next one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import unquote

from atelier_tracking.errors import JobError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

DAY_MS = 86_400_000
DELETED_VERSION = "Deleted_Internal"
"""Stage of a version that was deleted; MLflow keeps its row, without source and run."""


class Files(Protocol):
    def measure(self, folder: str) -> tuple[int, int]:
        """Number of files below a folder, and their bytes."""

    def remove(self, folder: str) -> None:
        """Removes them; a folder that is gone already is no error."""


@dataclass(frozen=True)
class Thing:
    """Something that was deleted in MLflow.

    Attributes:
        kind: what it is.
        id: of MLflow.
        location: address of its files; None for an experiment, which has none of its own.
    """

    kind: Literal["run", "logged model", "experiment"]
    id: str
    location: str | None


class Needs:
    """What registered versions need: ids, and folders of the bucket."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self.by_id: dict[str, str] = {}
        self.by_folder: dict[str, str] = {}

    def add(self, who: str, *addresses: str | None, run_id: str | None) -> None:
        """Notes one version.

        Args:
            who: as in "version 3 of sketch".
            addresses: its source and storage location.
            run_id: that MLflow has for it.
        """
        if run_id:
            self.by_id[run_id] = who
        for address in filter(None, addresses):
            if found := re.match(r"(?i)(?:runs:/+([0-9a-f]{32})|models:/+(m-[0-9a-f]{32}))(?:/|$)", address):
                self.by_id[(found[1] or found[2]).lower()] = who
            if (folder := folder_of(address, self._bucket)) is not None:
                self.by_folder[folder] = who

    def of(self, thing: Thing) -> str | None:
        """The version that needs a thing; None where none does."""
        if thing.id in self.by_id:
            return self.by_id[thing.id]
        mine = folder_of(thing.location, self._bucket) if thing.location else None
        if mine is not None:
            for folder, who in self.by_folder.items():
                if _below(folder, mine) or _below(mine, folder):
                    return who
        return next((who for folder, who in self.by_folder.items() if thing.id in folder.split("/")), None)


def folder_of(address: str, bucket: str) -> str | None:
    """The path inside the bucket; None for an address of another place.

    Args:
        address: an artifact address of MLflow.
        bucket: such as s3://artifacts.
    """
    for scheme in ("mlflow-artifacts:/", f"{bucket}/"):
        if address.lower().startswith(scheme):
            path = unquote(re.sub(r"[\t\r\n]", "", address[len(scheme) :])).partition("?")[0].partition("#")[0]
            return "/".join(part for part in path.split("/") if part not in ("", "."))
    return None


def _below(folder: str, other: str) -> bool:
    return other == "" or f"{folder}/".startswith(f"{other}/")


def collect(
    uri: str, bucket: str, *, older_than_days: float, remove: bool, say: Callable[[str], None], files: Files | None = None
) -> None:
    """Says what may go and what must stay, and removes the former.

    Args:
        uri: SQLAlchemy address of the database.
        bucket: such as s3://artifacts.
        older_than_days: deleted at least so long ago.
        remove: otherwise only say it.
        say: takes one line.
        files: the bucket; by default the one of the address.

    Raises:
        JobError: the tables are not those of this image.
    """
    from atelier_tracking.server.schema import open_schema

    if open_schema(uri).state() != "current":
        raise JobError("the database's tables are not those of this image: run its `migrate` first; nothing was removed")
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(uri, "mlflow-artifacts:/")
    files = files or S3Files(bucket)
    before_ms = int(time.time() * 1000 - older_than_days * DAY_MS)
    count = size = 0
    gone: set[str] = set()
    for thing in _deleted(store, before_ms):
        reason = _stays(store, thing, bucket, gone)
        if reason is not None:
            say(f"kept     {thing.kind} {thing.id}: {reason}")
            continue
        folder = folder_of(thing.location, bucket) if thing.location else None
        number, length = files.measure(folder) if folder else (0, 0)
        gone.add(thing.id)
        count, size = count + number, size + length
        if remove:
            if folder:
                files.remove(folder)
            _forget(store, thing)
        say(f"{'removed' if remove else 'removable'} {thing.kind} {thing.id}: {number} files, {length / 1e6:.1f} MB")
    done = "removed" if remove else "would be removed; pass --yes to remove them"
    say(f"{len(gone)} deleted at least {older_than_days:g} days ago, {count} files, {size / 1e6:.1f} MB: {done}")


def _deleted(store: Any, before_ms: int) -> list[Thing]:
    """Everything that was deleted before a moment; experiments last, as they hold the others."""
    from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlRun

    with store.ManagedSessionMaker() as session:
        runs = session.query(SqlRun).filter(SqlRun.lifecycle_stage == "deleted", SqlRun.deleted_time <= before_ms)
        models = session.query(SqlLoggedModel).filter(
            SqlLoggedModel.lifecycle_stage == "deleted", SqlLoggedModel.last_updated_timestamp_ms <= before_ms
        )
        experiments = session.query(SqlExperiment).filter(
            SqlExperiment.lifecycle_stage == "deleted", SqlExperiment.last_update_time <= before_ms
        )
        return [
            *(Thing("logged model", each.model_id, each.artifact_location) for each in models),
            *(Thing("run", each.run_uuid, each.artifact_uri) for each in runs),
            *(Thing("experiment", str(each.experiment_id), None) for each in experiments),
        ]


def _stays(store: Any, thing: Thing, bucket: str, gone: Collection[str]) -> str | None:
    """Why a thing is kept; asked anew for each, since people go on registering and restoring meanwhile."""
    from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlRun

    tables = {"run": SqlRun, "logged model": SqlLoggedModel, "experiment": SqlExperiment}
    with store.ManagedSessionMaker() as session:
        row = session.get(tables[thing.kind], int(thing.id) if thing.kind == "experiment" else thing.id)
        if row is None or row.lifecycle_stage != "deleted":
            return "it was restored, or removed, a moment ago"
        if thing.kind == "experiment":
            ids = [each for (each,) in session.query(SqlRun.run_uuid).filter(SqlRun.experiment_id == row.experiment_id)]
            of_it = SqlLoggedModel.experiment_id == row.experiment_id
            ids += [each for (each,) in session.query(SqlLoggedModel.model_id).filter(of_it)]
            left = set(ids) - set(gone)
            return f"{len(left)} runs or logged models of it are kept" if left else None
        needs = _needs(session, bucket)
        if (who := needs.of(thing)) is not None:
            return f"{who} needs it"
        if thing.kind == "run":
            for model in session.query(SqlLoggedModel).filter(SqlLoggedModel.source_run_id == thing.id):
                if (who := needs.of(Thing("logged model", model.model_id, model.artifact_location))) is not None:
                    return f"{who} needs logged model {model.model_id}, which it logged"
    folder = folder_of(str(thing.location), bucket)
    if folder is None or thing.id not in folder.split("/"):
        return f"its files are not in a folder of its own in {bucket}: {thing.location}; MLflow's own gc removes it"
    return None


def _needs(session: Session, bucket: str) -> Needs:
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

    needs = Needs(bucket)
    for each in session.query(SqlModelVersion).filter(SqlModelVersion.current_stage != DELETED_VERSION):
        who = f"version {each.version} of {each.name}"
        needs.add(who, each.source, each.storage_location, run_id=each.run_id)
    return needs


def _forget(store: Any, thing: Thing) -> None:
    forget = {
        "run": store._hard_delete_run,
        "logged model": store._hard_delete_logged_model,
        "experiment": store._hard_delete_experiment,
    }
    forget[thing.kind](thing.id)


class S3Files:
    """Objects of one bucket by their prefix."""

    def __init__(self, bucket: str) -> None:
        import os

        import boto3

        address = os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None
        self._bucket = boto3.resource("s3", endpoint_url=address).Bucket(bucket.removeprefix("s3://"))

    def measure(self, folder: str) -> tuple[int, int]:
        sizes = [each.size for each in self._bucket.objects.filter(Prefix=f"{folder}/")]
        return len(sizes), sum(sizes)

    def remove(self, folder: str) -> None:
        self._bucket.objects.filter(Prefix=f"{folder}/").delete()
