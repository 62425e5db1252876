"""`start` and `stop`: services and the database are billed only while they run."""

from __future__ import annotations

from typing import Any

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translate_errors
from atelier_infra.aws.poller import Poller
from atelier_infra.commands.deploy import Deployer
from atelier_infra.environment.stack import Service, Stack
from atelier_infra.errors import NotReadyError

RESTART_NOTICE = (
    "AWS starts a stopped database again after seven days; `status` prints when, and `stop --database` stops it again"
)


class StartStop:
    """Starts and stops an environment; the database is started first and stopped last."""

    def __init__(self, stack: Stack, aws: Aws, changes: ChangeRunner, poller: Poller, deployer: Deployer) -> None:
        self._stack, self._aws, self._changes, self._poller, self._deployer = stack, aws, changes, poller, deployer
        self._rds, self._console = aws.client("rds"), changes.console

    def describe_database(self) -> dict[str, Any]:
        """RDS's description of the instance."""
        with translate_errors(self._aws.region):
            response = self._rds.describe_db_instances(DBInstanceIdentifier=self._stack.database)
        instance: dict[str, Any] = response["DBInstances"][0]
        return instance

    def start(self, services: dict[str, Service], timeout_s: float) -> None:
        """Starts database and services, and waits until they are healthy.

        Raises:
            NotReadyError: a service was never deployed, or the time ran out.
            DeploymentError: a service never became healthy.
        """
        descriptions = {name: self._deployer.describe(service) for name, service in services.items()}
        for name, description in descriptions.items():
            if not self._deployer.is_deployed(description):
                raise NotReadyError(f"{name} has no image yet; run `python -m atelier_infra push {name}`, then `deploy {name}`")
        self.start_database(timeout_s)
        for service in services.values():
            self._deployer.scale(service, 1)
        if not self._changes.dry_run:
            for name, service in services.items():
                self._deployer.wait(service, descriptions[name]["taskDefinition"], timeout_s)

    def stop(self, services: dict[str, Service], *, database: bool, timeout_s: float) -> None:
        """Stops services, tracking last, and optionally the database."""
        self.stop_services(services, timeout_s)
        if not database:
            self._console.print("the database keeps running and costs what `plan` shows; `stop --database` stops it as well")
            return
        if (status := self.describe_database()["DBInstanceStatus"]) in ("stopped", "stopping"):
            self._console.print(f"the database is already {status}")
        else:
            if status != "available" and not self._changes.dry_run:
                self._wait_for_database("available", timeout_s)
            self._changes.run("stop the database", self._rds.stop_db_instance, DBInstanceIdentifier=self._stack.database)
        self._console.print(RESTART_NOTICE)

    def stop_services(self, services: dict[str, Service], timeout_s: float) -> None:
        """Stops services, tracking last, and waits until none of their tasks runs."""
        for service in reversed(services.values()):
            self._deployer.scale(service, 0)
        if not self._changes.dry_run:
            for service in services.values():
                self._wait_until_stopped(service, timeout_s)

    def start_database(self, timeout_s: float) -> None:
        """Starts the database if it is stopped, and waits until it is available."""
        status = self.describe_database()["DBInstanceStatus"]
        if status == "stopping" and not self._changes.dry_run:
            status = self._wait_for_database("stopped", timeout_s)
        if status in ("stopped", "stopping"):
            self._changes.run("start the database", self._rds.start_db_instance, DBInstanceIdentifier=self._stack.database)
        if status != "available" and not self._changes.dry_run:
            self._wait_for_database("available", timeout_s)

    def _wait_for_database(self, wanted: str, timeout_s: float) -> str:
        def check() -> tuple[str | None, str]:
            status = self.describe_database()["DBInstanceStatus"]
            return (wanted if status == wanted else None), f"it is {status}"

        return self._poller.until(f"the database is {wanted} (some minutes)", check, timeout_s)

    def _wait_until_stopped(self, service: Service, timeout_s: float) -> None:
        def check() -> tuple[bool | None, str]:
            running = self._deployer.describe(service)["runningCount"]
            return (True if running == 0 else None), f"{running} tasks running"

        self._poller.until(f"{service.service} has stopped", check, timeout_s)
