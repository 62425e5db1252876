"""`upgrade`: snapshot, migration in a one-off task, deployment of all services."""

from __future__ import annotations

from rich.console import Console

from atelier_infra.commands.deploy import Deployer
from atelier_infra.commands.start_stop import StartStop
from atelier_infra.environment.one_off_task import OneOffTask
from atelier_infra.environment.snapshots import Snapshots
from atelier_infra.environment.stack import Service
from atelier_infra.errors import DeploymentError, InfraError, NotReadyError


class Upgrade:
    def __init__(
        self, deployer: Deployer, start_stop: StartStop, snapshots: Snapshots, one_off: OneOffTask, console: Console
    ) -> None:
        self._deployer, self._start_stop, self._snapshots = deployer, start_stop, snapshots
        self._one_off, self._console = one_off, console

    def run(self, services: dict[str, Service], tag: str, timeout_s: float) -> None:
        """Deploys one revision to every service and migrates the tables in between.

        Args:
            services: all services of the environment.
            tag: tag of images that were pushed.
            timeout_s: seconds to wait for each step.

        Raises:
            NotReadyError: a service was never deployed, or a step timed out.
            DeploymentError: the migration failed, or a service never became healthy; the message has the commands that roll
                back.
        """
        tracking = services["tracking"]
        before = {name: self._deployer.describe(service) for name, service in services.items()}
        for name, description in before.items():
            if not self._deployer.is_deployed(description):
                raise NotReadyError(f"{name} has no image to upgrade from; run `python -m atelier_infra deploy`")
        old_tags = {name: self._deployer.image_tag(description) for name, description in before.items()}
        self._start_stop.start_database(timeout_s)
        snapshot = self._snapshots.create(f"before-{tag}", timeout_s)
        rollback = [f"python -m atelier_infra restore {snapshot}"]
        rollback += [f"python -m atelier_infra deploy {name} --tag {old_tags[name]}" for name in services]
        count = before["tracking"]["desiredCount"]
        try:
            if count:
                self._start_stop.stop_services({"tracking": tracking}, timeout_s)
            definition = self._deployer.register(tracking, tag)
            try:
                network = self._deployer.describe(tracking).get("networkConfiguration")
                self._one_off.run(tracking, network, definition, ["migrate"], timeout_s)
            except InfraError as error:
                if count:
                    self._deployer.scale(tracking, count)
                raise DeploymentError(
                    f"the migration of the tables failed: {error}; {old_tags['tracking']} was started again"
                ) from error
            self._deployer.update_service(tracking, definition, tag, timeout_s, before["tracking"], start=bool(count))
            for name, service in services.items():
                if name != "tracking":
                    self._deployer.deploy(service, tag, timeout_s)
        except InfraError as error:
            raise DeploymentError(f"{error}\nto go back:\n  " + "\n  ".join(rollback)) from error
        self._console.print(
            "to go back (this loses what was written since the snapshot):\n  " + "\n  ".join(rollback), highlight=False
        )
