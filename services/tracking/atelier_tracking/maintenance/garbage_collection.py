"""Permanently removes what was deleted in MLflow, except what a registered version needs.

MLflow's own `gc` ignores versions: after a trainer deleted the run of a champion, it removes the champion's files. Here every
registered version protects its run, its logged model and the folder of its source; aliases, decisions of registry-api and
bundles are versions or point at them. Files are removed before rows, so that the next collection completes an interrupted one.
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
"""Stage of a deleted version; MLflow keeps its row without source and run."""


class ArtifactFiles(Protocol):
    def measure(self, folder: str) -> tuple[int, int]:
        """Number of files below a folder, and their total bytes."""

    def remove(self, folder: str) -> None:
        """Removes the files below a folder, if there are any."""


@dataclass(frozen=True)
class DeletedItem:
    """A deleted run, logged model or experiment.

    Attributes:
        kind: type of the item.
        id: MLflow's id.
        location: URI of its files; None for an experiment, which has no files of its own.
    """

    kind: Literal["run", "logged model", "experiment"]
    id: str
    location: str | None


class VersionReferences:
    """Ids and folders of the bucket that registered versions reference."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self._by_id: dict[str, str] = {}
        self._by_folder: dict[str, str] = {}

    def add(self, version: str, *uris: str | None, run_id: str | None) -> None:
        """Adds the references of a version.

        Args:
            version: label of the version, for example "version 3 of sketch".
            uris: source and storage location.
            run_id: id of its run.
        """
        if run_id:
            self._by_id[run_id] = version
        for uri in filter(None, uris):
            if match := re.match(r"(?i)(?:runs:/+([0-9a-f]{32})|models:/+(m-[0-9a-f]{32}))(?:/|$)", uri):
                self._by_id[(match[1] or match[2]).lower()] = version
            if (folder := bucket_path(uri, self._bucket)) is not None:
                self._by_folder[folder] = version

    def find(self, item: DeletedItem) -> str | None:
        """Label of a version that needs the item, or None."""
        if item.id in self._by_id:
            return self._by_id[item.id]
        item_folder = bucket_path(item.location, self._bucket) if item.location else None
        if item_folder is not None:
            for folder, version in self._by_folder.items():
                if _is_within(folder, item_folder) or _is_within(item_folder, folder):
                    return version
        return next((version for folder, version in self._by_folder.items() if item.id in folder.split("/")), None)


def bucket_path(uri: str, bucket: str) -> str | None:
    """Path of an artifact URI in the bucket (for example s3://artifacts); None for other locations."""
    for scheme in ("mlflow-artifacts:/", f"{bucket}/"):
        if uri.lower().startswith(scheme):
            path = unquote(re.sub(r"[\t\r\n]", "", uri[len(scheme) :])).partition("?")[0].partition("#")[0]
            return "/".join(part for part in path.split("/") if part not in ("", "."))
    return None


def _is_within(folder: str, other: str) -> bool:
    return other == "" or f"{folder}/".startswith(f"{other}/")


def collect_garbage(
    uri: str,
    bucket: str,
    *,
    older_than_days: float,
    remove: bool,
    write: Callable[[str], None],
    files: ArtifactFiles | None = None,
) -> None:
    """Lists deleted items with the reason to keep them, and removes those without one.

    Args:
        uri: SQLAlchemy URL of the database.
        bucket: URI of the bucket, for example s3://artifacts.
        older_than_days: minimum days since deletion.
        remove: whether to remove anything; otherwise only list.
        write: prints one line.
        files: files of the bucket; S3 by default.

    Raises:
        JobError: the tables have the revision of another release.
    """
    from atelier_tracking.server.schema import open_schema

    if open_schema(uri).state() != "current":
        raise JobError("the database's tables have the revision of another release, nothing was removed; run `migrate` first")
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(uri, "mlflow-artifacts:/")
    files = files or S3Files(bucket)
    before_ms = int(time.time() * 1000 - older_than_days * DAY_MS)
    count = size = 0
    removed_ids: set[str] = set()
    for item in _deleted_items(store, before_ms):
        reason = _reason_to_keep(store, item, bucket, removed_ids)
        if reason is not None:
            write(f"kept     {item.kind} {item.id}: {reason}")
            continue
        folder = bucket_path(item.location, bucket) if item.location else None
        item_count, item_size = files.measure(folder) if folder else (0, 0)
        removed_ids.add(item.id)
        count, size = count + item_count, size + item_size
        if remove:
            if folder:
                files.remove(folder)
            _delete_rows(store, item)
        write(f"{'removed' if remove else 'removable'} {item.kind} {item.id}: {item_count} files, {item_size / 1e6:.1f} MB")
    result = "removed" if remove else "would be removed; pass --yes to remove them"
    write(f"{len(removed_ids)} deleted at least {older_than_days:g} days ago, {count} files, {size / 1e6:.1f} MB: {result}")


def _deleted_items(store: Any, before_ms: int) -> list[DeletedItem]:
    """Items that were deleted before a time; experiments last, because they contain the others."""
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
            *(DeletedItem("logged model", model.model_id, model.artifact_location) for model in models),
            *(DeletedItem("run", run.run_uuid, run.artifact_uri) for run in runs),
            *(DeletedItem("experiment", str(experiment.experiment_id), None) for experiment in experiments),
        ]


def _reason_to_keep(store: Any, item: DeletedItem, bucket: str, removed_ids: Collection[str]) -> str | None:
    """Why an item is kept, or None. Read for each item, because people register and restore during the collection."""
    from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlRun

    tables = {"run": SqlRun, "logged model": SqlLoggedModel, "experiment": SqlExperiment}
    with store.ManagedSessionMaker() as session:
        row = session.get(tables[item.kind], int(item.id) if item.kind == "experiment" else item.id)
        if row is None or row.lifecycle_stage != "deleted":
            return "it was restored or removed in the meantime"
        if item.kind == "experiment":
            ids = [id_ for (id_,) in session.query(SqlRun.run_uuid).filter(SqlRun.experiment_id == row.experiment_id)]
            in_experiment = SqlLoggedModel.experiment_id == row.experiment_id
            ids += [id_ for (id_,) in session.query(SqlLoggedModel.model_id).filter(in_experiment)]
            kept = set(ids) - set(removed_ids)
            return f"{len(kept)} of its runs or logged models are kept" if kept else None
        references = _version_references(session, bucket)
        if (version := references.find(item)) is not None:
            return f"{version} needs it"
        if item.kind == "run":
            for model in session.query(SqlLoggedModel).filter(SqlLoggedModel.source_run_id == item.id):
                logged_model = DeletedItem("logged model", model.model_id, model.artifact_location)
                if (version := references.find(logged_model)) is not None:
                    return f"{version} needs logged model {model.model_id}, which it logged"
    folder = bucket_path(str(item.location), bucket)
    if folder is None or item.id not in folder.split("/"):
        return f"its files are not in their own folder of {bucket}: {item.location}; MLflow's own gc removes it"
    return None


def _version_references(session: Session, bucket: str) -> VersionReferences:
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

    references = VersionReferences(bucket)
    for row in session.query(SqlModelVersion).filter(SqlModelVersion.current_stage != DELETED_VERSION):
        version = f"version {row.version} of {row.name}"
        references.add(version, row.source, row.storage_location, run_id=row.run_id)
    return references


def _delete_rows(store: Any, item: DeletedItem) -> None:
    delete = {
        "run": store._hard_delete_run,
        "logged model": store._hard_delete_logged_model,
        "experiment": store._hard_delete_experiment,
    }
    delete[item.kind](item.id)


class S3Files:
    def __init__(self, bucket: str) -> None:
        import os

        import boto3

        endpoint_url = os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None
        self._bucket = boto3.resource("s3", endpoint_url=endpoint_url).Bucket(bucket.removeprefix("s3://"))

    def measure(self, folder: str) -> tuple[int, int]:
        sizes = [item.size for item in self._bucket.objects.filter(Prefix=f"{folder}/")]
        return len(sizes), sum(sizes)

    def remove(self, folder: str) -> None:
        self._bucket.objects.filter(Prefix=f"{folder}/").delete()
