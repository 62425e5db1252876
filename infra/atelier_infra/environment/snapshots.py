"""Snapshots of the database: taken for backups and before migrations, and restored."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translate_errors
from atelier_infra.aws.poller import Poller
from atelier_infra.environment.stack import Stack
from atelier_infra.errors import InputError, NotReadyError
from atelier_infra.terraform.runner import Terraform

DATABASE = "aws_db_instance.this[0]"


def timestamp() -> str:
    """The UTC time for use in names."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}"


class Snapshots:
    def __init__(self, stack: Stack, aws: Aws, changes: ChangeRunner, poller: Poller) -> None:
        self._stack, self._aws, self._changes, self._poller = stack, aws, changes, poller
        self._rds = aws.client("rds")

    def create(self, label: str, timeout_s: float) -> str:
        """Takes a snapshot, and waits until it is complete.

        Args:
            label: part of the identifier.
            timeout_s: seconds to wait.

        Returns:
            The identifier.

        Raises:
            NotReadyError: the snapshot failed, or the time ran out.
        """
        # RDS allows letters, digits and single hyphens
        name = re.sub(r"-+", "-", re.sub(r"[^a-z0-9-]", "-", f"{self._stack.name}-{label}-{timestamp()}".lower()))
        self._changes.run(
            f"take snapshot {name}",
            self._rds.create_db_snapshot,
            DBInstanceIdentifier=self._stack.database,
            DBSnapshotIdentifier=name,
        )
        if not self._changes.dry_run:

            def check() -> tuple[str | None, str]:
                status = str(self._rds.describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"][0]["Status"])
                if status == "failed":
                    raise NotReadyError(f"snapshot {name} failed, nothing else was changed; the events of RDS have the reason")
                return (status if status == "available" else None), f"it is {status}"

            self._poller.until(f"snapshot {name} is complete", check, timeout_s)
        return name

    def check(self, name: str) -> None:
        """Raises InputError unless this is a complete snapshot of this database."""
        with translate_errors(self._aws.region):
            try:
                matches = self._rds.describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"]
            except self._rds.exceptions.DBSnapshotNotFoundFault:
                matches = []
            others = self._rds.describe_db_snapshots(SnapshotType="manual")["DBSnapshots"] if not matches else []
        database = self._stack.name
        if not matches or matches[0]["DBInstanceIdentifier"] != database or matches[0]["Status"] != "available":
            existing = ", ".join(other["DBSnapshotIdentifier"] for other in others if other["DBInstanceIdentifier"] == database)
            raise InputError(f"database {database} has no complete snapshot {name}; it has {existing or 'none'}")


def restore_snapshot(terraform: Terraform, stack: Stack, snapshot: str, console: Console, *, dry_run: bool) -> str:
    """Recreates the database from a snapshot; its current content is kept in a new snapshot.

    Args:
        terraform: Terraform of the environment.
        stack: the environment.
        snapshot: identifier of the snapshot.
        console: for progress.
        dry_run: only print the steps.

    Returns:
        Identifier of the snapshot with the previous content.
    """
    final_snapshot = f"kept-{timestamp()}"
    steps = (
        ("unlock the database", {"final_snapshot": final_snapshot, "unlock_database": "true"}, None),
        # the old instance is deleted with the final_snapshot that the first step stored in the state
        (f"recreate the database from {snapshot}", {"database_snapshot": snapshot}, DATABASE),
    )
    for description, variables, replaced in steps:
        if dry_run:
            console.print(f"would {description}", highlight=False)
            continue
        console.print(description, highlight=False)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "plan"
            terraform.plan(path, variables, replace=replaced)
            terraform.apply(path)
    return f"{stack.name}-{final_snapshot}"
