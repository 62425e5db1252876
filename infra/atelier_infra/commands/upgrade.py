"""`upgrade`: snapshot, migration by a task of its own, rollout; and the way back in words."""

from __future__ import annotations

from rich.console import Console

from atelier_infra.aws.one_off_task import OneOffTask
from atelier_infra.aws.snapshots import Snapshots
from atelier_infra.commands.deploy import Rollout
from atelier_infra.commands.start_stop import Switch
from atelier_infra.errors import InfraError, NotReadyError, RolloutError
from atelier_infra.terraform.outputs import Service


def upgrade(
    services: dict[str, Service],
    tag: str,
    rollout: Rollout,
    switch: Switch,
    snapshots: Snapshots,
    one_off: OneOffTask,
    console: Console,
    timeout_s: float,
) -> None:
    """Brings every service to one revision, and the database's tables with them.

    Args:
        services: all of the environment.
        tag: of images that are in the repositories.
        rollout: of the services.
        switch: that starts the database where it is stopped, and stops tracking.
        snapshots: of the database.
        one_off: for the migration.
        console: for what happens.
        timeout_s: to wait for each step.

    Raises:
        NotReadyError: nothing was deployed yet, or a step takes too long.
        RolloutError: the migration failed, or a service never became healthy; the message holds the way back.
    """
    tracking = services["tracking"]
    before = {name: rollout.describe(service) for name, service in services.items()}
    for name, described in before.items():
        if not rollout.is_deployed(described):
            raise NotReadyError(
                f"{name} has no image yet, so there is nothing to upgrade; run `python -m atelier_infra deploy`"
            )
    old = {name: rollout.image(described["taskDefinition"]).rpartition(":")[2] for name, described in before.items()}
    switch.start_database(timeout_s)
    snapshot = snapshots.take(f"before-{tag}", timeout_s)
    back = [f"python -m atelier_infra restore {snapshot}"]
    back += [f"python -m atelier_infra deploy {name} --tag {old[name]}" for name in services]
    count = before["tracking"]["desiredCount"]
    try:
        if count:
            switch.stop_services({"tracking": tracking}, timeout_s)
        definition = rollout.register(tracking, tag)
        try:
            one_off.run(tracking, definition, ["migrate"], timeout_s)
        except InfraError as error:
            if count:
                rollout.scale(tracking, count)
            raise RolloutError(f"the tables could not be migrated: {error}; {old['tracking']} was started again") from error
        rollout.roll_out(tracking, definition, tag, timeout_s, before["tracking"], start=bool(count))
        for name, service in services.items():
            if name != "tracking":
                rollout.deploy(service, tag, timeout_s)
    except InfraError as error:
        raise RolloutError(f"{error}\nthe way back:\n  " + "\n  ".join(back)) from error
    console.print("the way back, for as long as nobody wrote what must not be lost:\n  " + "\n  ".join(back), highlight=False)
