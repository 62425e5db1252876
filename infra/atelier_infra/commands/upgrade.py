"""`upgrade`: snapshot, migration by a task of its own, rollout; and the way back in words."""

from __future__ import annotations

from rich.console import Console

from atelier_infra.commands.deploy import Deployer
from atelier_infra.commands.start_stop import StartStop
from atelier_infra.environment.one_off_task import OneOffTask
from atelier_infra.environment.snapshots import Snapshots
from atelier_infra.environment.stack import Service
from atelier_infra.errors import DeploymentError, InfraError, NotReadyError


def upgrade(
    services: dict[str, Service],
    tag: str,
    deployer: Deployer,
    switch: StartStop,
    snapshots: Snapshots,
    one_off: OneOffTask,
    console: Console,
    timeout_s: float,
) -> None:
    """Brings every service to one revision, and the database's tables with them.

    Args:
        services: all of the environment.
        tag: of images that are in the repositories.
        deployer: of the services.
        switch: that starts the database where it is stopped, and stops tracking.
        snapshots: of the database.
        one_off: for the migration.
        console: for what happens.
        timeout_s: to wait for each step.

    Raises:
        NotReadyError: nothing was deployed yet, or a step takes too long.
        DeploymentError: the migration failed, or a service never became healthy; the message holds the way back.
    """
    tracking = services["tracking"]
    before = {name: deployer.describe(service) for name, service in services.items()}
    for name, described in before.items():
        if not deployer.is_deployed(described):
            raise NotReadyError(
                f"{name} has no image yet, so there is nothing to upgrade; run `python -m atelier_infra deploy`"
            )
    old = {name: deployer.image(described["taskDefinition"]).rpartition(":")[2] for name, described in before.items()}
    switch.start_database(timeout_s)
    snapshot = snapshots.take(f"before-{tag}", timeout_s)
    back = [f"python -m atelier_infra restore {snapshot}"]
    back += [f"python -m atelier_infra deploy {name} --tag {old[name]}" for name in services]
    count = before["tracking"]["desiredCount"]
    try:
        if count:
            switch.stop_services({"tracking": tracking}, timeout_s)
        definition = deployer.register(tracking, tag)
        try:
            one_off.run(tracking, deployer.describe(tracking), definition, ["migrate"], timeout_s)
        except InfraError as error:
            if count:
                deployer.scale(tracking, count)
            raise DeploymentError(f"the tables could not be migrated: {error}; {old['tracking']} was started again") from error
        deployer.update_service(tracking, definition, tag, timeout_s, before["tracking"], start=bool(count))
        for name, service in services.items():
            if name != "tracking":
                deployer.deploy(service, tag, timeout_s)
    except InfraError as error:
        raise DeploymentError(f"{error}\nto go back:\n  " + "\n  ".join(back)) from error
    console.print("to go back (this loses what was written since the snapshot):\n  " + "\n  ".join(back), highlight=False)
