"""`destroy`: lifts the deletion protection, then removes the environment; data is kept unless --data is given."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translate_errors
from atelier_infra.environment.stack import Stack
from atelier_infra.terraform.runner import Terraform


def destroy(terraform: Terraform, stack: Stack, aws: Aws, changes: ChangeRunner, *, data: bool) -> None:
    """Removes an environment; with `data` also its buckets, snapshots, secrets and images, but not its backups."""
    kept = f"kept-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    unlocked = {"protect_data": "false", "final_snapshot": kept}
    _stop_services(stack, aws, changes)
    if data:
        if not stack.database:
            unlocked["data_only"] = "true"  # or the plan would recreate what is already removed
        _apply(terraform, unlocked, "unlock the data", changes)
        _apply(terraform, unlocked, "delete everything", changes, destroy=True)
        _delete_snapshots(stack, aws, changes)
    else:
        # only the database's protection is lifted; buckets and secrets keep theirs
        if stack.database:
            _apply(terraform, {"final_snapshot": kept, "unlock_database": "true"}, "unlock the database", changes)
        _apply(terraform, {"data_only": "true", "final_snapshot": kept}, "remove what is billed by the hour", changes)
        if not changes.dry_run:
            changes.console.print(
                f"kept: bucket {stack.artifact_bucket}, snapshot {stack.name}-{kept}, secrets, images; "
                "`up` creates the environment from them"
            )
    _deregister_task_definitions(stack, aws, changes)


def snapshots(name: str, aws: Aws, *, kept: bool = False) -> list[str]:
    """Identifiers of an environment's snapshots, oldest first; with `kept` only those that `destroy` took."""
    with translate_errors(aws.region):
        pages = aws.client("rds").get_paginator("describe_db_snapshots").paginate(SnapshotType="manual")
        all_snapshots = [snapshot for page in pages for snapshot in page["DBSnapshots"]]
    identifiers = sorted(
        str(snapshot["DBSnapshotIdentifier"])
        for snapshot in all_snapshots
        if snapshot["DBInstanceIdentifier"] == name and snapshot["DBSnapshotIdentifier"].startswith(f"{name}-")
    )
    return [
        identifier for identifier in identifiers if not (kept and identifier.startswith((f"{name}-backup-", f"{name}-before-")))
    ]


def _apply(
    terraform: Terraform, variables: dict[str, str], description: str, changes: ChangeRunner, *, destroy: bool = False
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "plan"
        plan = terraform.plan(path, variables, destroy=destroy)
        changed = [
            resource["address"]
            for resource in plan.get("resource_changes", [])
            if set(resource["change"]["actions"]) & {"delete", "update"}
        ]
        if changes.dry_run:
            changes.console.print(
                f"would {description}: {', '.join(changed) or 'nothing to do'}", highlight=False, markup=False, soft_wrap=True
            )
            return
        changes.console.print(description)
        terraform.apply(path)


def _stop_services(stack: Stack, aws: Aws, changes: ChangeRunner) -> None:
    ecs = aws.client("ecs")
    for service in stack.services.values():
        if service.running:
            changes.run(
                f"stop {service.service}", ecs.update_service, cluster=stack.cluster, service=service.service, desiredCount=0
            )


def _deregister_task_definitions(stack: Stack, aws: Aws, changes: ChangeRunner) -> None:
    """Deregisters what `deploy` registered; Terraform manages only its own task definitions."""
    ecs = aws.client("ecs")
    for name in stack.services:
        with translate_errors(aws.region):
            pages = ecs.get_paginator("list_task_definitions").paginate(familyPrefix=f"{stack.name}-{name}", status="ACTIVE")
            arns = [arn for page in pages for arn in page["taskDefinitionArns"]]
        for arn in arns:
            # the prefix also matches families of other environments
            if arn.rpartition("/")[2].partition(":")[0] == f"{stack.name}-{name}":
                changes.run(f"deregister {arn.rpartition('/')[2]}", ecs.deregister_task_definition, taskDefinition=arn)


def _delete_snapshots(stack: Stack, aws: Aws, changes: ChangeRunner) -> None:
    rds = aws.client("rds")
    for identifier in snapshots(stack.name, aws):
        if identifier.startswith(f"{stack.name}-backup-"):
            continue  # backups outlive the environment
        changes.run(f"delete snapshot {identifier}", rds.delete_db_snapshot, DBSnapshotIdentifier=identifier)
