"""`destroy`: first unlocks what protects the data, then takes away; the data stays unless told otherwise."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translated
from atelier_infra.environment.stack import Stack
from atelier_infra.terraform.runner import Terraform


def destroy(terraform: Terraform, stack: Stack, aws: Aws, changes: ChangeRunner, console: Console, *, data: bool) -> None:
    """Takes an environment away.

    Args:
        terraform: that made it.
        stack: the environment.
        aws: connection.
        changes: how things are changed outside of Terraform.
        console: for what happens.
        data: also buckets, snapshots, secrets and images.
    """
    kept = f"kept-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    unlocked = {"protect_data": "false", "final_snapshot": kept}
    _stop_services(stack, aws, changes)
    if data:
        if not stack.database:
            unlocked["data_only"] = "true"  # what is gone already is not made again for a moment
        _run(terraform, unlocked, "unlock the data", console, changes)
        _run(terraform, unlocked, "delete everything", console, changes, all_of_it=True)
        _delete_snapshots(stack, aws, changes)
    else:
        # only the database's own protection is lifted for a moment; buckets and secrets keep theirs
        if stack.database:
            _run(terraform, {"final_snapshot": kept, "unlock_database": "true"}, "unlock the database", console, changes)
        _run(terraform, {"data_only": "true", "final_snapshot": kept}, "take away what costs by the hour", console, changes)
        if not changes.dry_run:
            console.print(
                f"kept: bucket {stack.artifact_bucket}, snapshot {stack.name}-{kept}, logins, images. `up` goes on from there"
            )
    _forget_revisions(stack, aws, changes)


def snapshots(name: str, aws: Aws, *, kept: bool = False) -> list[str]:
    """Snapshots of an environment's database, oldest first; `kept`: without those of `backup` and `upgrade`."""
    with translated(aws.region):
        pages = aws.client("rds").get_paginator("describe_db_snapshots").paginate(SnapshotType="manual")
        found = [each for page in pages for each in page["DBSnapshots"]]
    mine = [
        each for each in found if each["DBInstanceIdentifier"] == name and each["DBSnapshotIdentifier"].startswith(f"{name}-")
    ]
    names = sorted(str(each["DBSnapshotIdentifier"]) for each in mine)
    return [each for each in names if not (kept and each.startswith((f"{name}-backup-", f"{name}-before-")))]


def _run(
    terraform: Terraform,
    variables: dict[str, str],
    said: str,
    console: Console,
    changes: ChangeRunner,
    *,
    all_of_it: bool = False,
) -> None:
    with TemporaryDirectory() as place:
        path = Path(place) / "plan"
        plan = terraform.plan(path, variables, destroy=all_of_it)
        touched = [
            each["address"]
            for each in plan.get("resource_changes", [])
            if set(each["change"]["actions"]) & {"delete", "update"}
        ]
        if changes.dry_run:
            console.print(
                f"would {said}: {', '.join(touched) or 'nothing to do'}", highlight=False, markup=False, soft_wrap=True
            )
            return
        console.print(said)
        terraform.apply(path)


def _stop_services(stack: Stack, aws: Aws, changes: ChangeRunner) -> None:
    ecs = aws.client("ecs")
    for service in stack.services.values():
        if service.running:
            changes.make(
                f"stop {service.service}", ecs.update_service, cluster=stack.cluster, service=service.service, desiredCount=0
            )


def _forget_revisions(stack: Stack, aws: Aws, changes: ChangeRunner) -> None:
    """Task definitions that `deploy` registered; Terraform knows only its own."""
    ecs = aws.client("ecs")
    for name in stack.services:
        with translated(aws.region):
            pages = ecs.get_paginator("list_task_definitions").paginate(familyPrefix=f"{stack.name}-{name}", status="ACTIVE")
            found = [arn for page in pages for arn in page["taskDefinitionArns"]]
        for arn in found:
            # the prefix also matches families of other environments
            if arn.rpartition("/")[2].partition(":")[0] == f"{stack.name}-{name}":
                changes.make(f"forget {arn.rpartition('/')[2]}", ecs.deregister_task_definition, taskDefinition=arn)


def _delete_snapshots(stack: Stack, aws: Aws, changes: ChangeRunner) -> None:
    rds = aws.client("rds")
    for each in snapshots(stack.name, aws):
        if each.startswith(f"{stack.name}-backup-"):
            continue  # a backup outlives what it was made of
        changes.make(f"delete snapshot {each}", rds.delete_db_snapshot, DBSnapshotIdentifier=each)
