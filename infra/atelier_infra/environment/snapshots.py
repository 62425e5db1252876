"""Snapshots of the database: taken before a migration and for a backup, and put in the place of the database."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translated
from atelier_infra.aws.poller import Poller
from atelier_infra.environment.stack import Stack
from atelier_infra.errors import AnswerError, NotReadyError
from atelier_infra.terraform.runner import Terraform

DATABASE = "aws_db_instance.this[0]"


def clock() -> str:
    """The time as names hold it, in UTC."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}"


class Snapshots:
    def __init__(self, stack: Stack, aws: Aws, changes: ChangeRunner, poller: Poller) -> None:
        self._stack, self._aws, self._changes, self._poller = stack, aws, changes, poller
        self._rds = aws.client("rds")

    def take(self, why: str, timeout_s: float) -> str:
        """Takes one, and waits until it is there.

        Args:
            why: part of its name.
            timeout_s: for how long.

        Returns:
            Its identifier.

        Raises:
            NotReadyError: it takes too long.
        """
        # RDS takes letters, digits and single hyphens
        name = re.sub(r"-+", "-", re.sub(r"[^a-z0-9-]", "-", f"{self._stack.name}-{why}-{clock()}".lower()))
        self._changes.make(
            f"take snapshot {name}",
            self._rds.create_db_snapshot,
            DBInstanceIdentifier=self._stack.database,
            DBSnapshotIdentifier=name,
        )
        if not self._changes.dry_run:

            def look() -> tuple[str | None, str]:
                status = str(self._rds.describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"][0]["Status"])
                if status == "failed":
                    raise NotReadyError(f"snapshot {name} failed; RDS's events say why; nothing else was done")
                return (status if status == "available" else None), f"it is {status}"

            self._poller.until(f"snapshot {name} is complete", look, timeout_s)
        return name

    def check(self, name: str) -> None:
        """Sees that a snapshot is there, and is one of this database.

        Raises:
            AnswerError: it is not.
        """
        with translated(self._aws.region):
            try:
                found = self._rds.describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"]
            except self._rds.exceptions.DBSnapshotNotFoundFault:
                found = []
            of_it = self._rds.describe_db_snapshots(SnapshotType="manual")["DBSnapshots"] if not found else []
        if not found or found[0]["DBInstanceIdentifier"] != self._stack.name or found[0]["Status"] != "available":
            known = ", ".join(
                each["DBSnapshotIdentifier"] for each in of_it if each["DBInstanceIdentifier"] == self._stack.name
            )
            raise AnswerError(
                f"there is no complete snapshot {name} of database {self._stack.name}; there are {known or 'none'}"
            )


def restore_snapshot(terraform: Terraform, stack: Stack, snapshot: str, console: Console, *, dry_run: bool) -> str:
    """Makes the database anew from a snapshot; what it holds now stays in a snapshot of its own.

    Args:
        terraform: that made the environment.
        stack: the environment.
        snapshot: its identifier.
        console: for what happens.
        dry_run: say it only.

    Returns:
        The snapshot that holds what was there.
    """
    kept = f"kept-{clock()}"
    steps = (
        ("unlock the database", {"final_snapshot": kept, "unlock_database": "true"}, None),
        # the old one goes with the name that the step before left in the state, the new one begins with the usual
        (f"make the database anew from {snapshot}", {"database_snapshot": snapshot}, DATABASE),
    )
    for said, variables, replaced in steps:
        if dry_run:
            console.print(f"would {said}", highlight=False)
            continue
        console.print(said, highlight=False)
        with TemporaryDirectory() as place:
            path = Path(place) / "plan"
            terraform.plan(path, variables, replace=replaced)
            terraform.apply(path)
    return f"{stack.name}-{kept}"
