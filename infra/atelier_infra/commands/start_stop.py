"""`start` and `stop`: what costs money by the hour runs only while it is needed."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translated
from atelier_infra.aws.poller import Poller
from atelier_infra.commands.deploy import Deployer
from atelier_infra.environment.stack import Service, Stack
from atelier_infra.errors import NotReadyError

SEVEN_DAYS = "AWS starts a stopped database again after seven days; `status` tells when, and `stop --database` stops it again"


class StartStop:
    """Starts and stops an environment: the database first on the way up, last on the way down."""

    def __init__(
        self, stack: Stack, aws: Aws, changes: ChangeRunner, poller: Poller, deployer: Deployer, console: Console
    ) -> None:
        self._stack, self._aws, self._changes, self._poller, self._deployer, self._console = (
            stack,
            aws,
            changes,
            poller,
            deployer,
            console,
        )
        self._rds = aws.client("rds")

    def database(self) -> dict[str, Any]:
        """The database instance as RDS tells it."""
        with translated(self._aws.region):
            found: dict[str, Any] = self._rds.describe_db_instances(DBInstanceIdentifier=self._stack.database)["DBInstances"][0]
        return found

    def start(self, services: dict[str, Service], timeout_s: float) -> None:
        """Starts, and waits until everything is healthy.

        Raises:
            NotReadyError: nothing was deployed yet, or it takes too long.
            RolloutError: a service never became healthy.
        """
        found = {name: self._deployer.describe(service) for name, service in services.items()}
        for name, described in found.items():
            if not self._deployer.is_deployed(described):
                raise NotReadyError(f"{name} has no image yet; run `python -m atelier_infra push {name}`, then `deploy {name}`")
        self.start_database(timeout_s)
        for service in services.values():
            self._deployer.scale(service, 1)
        if not self._changes.dry_run:
            for name, service in services.items():
                self._deployer.wait(service, found[name]["taskDefinition"], timeout_s)

    def stop(self, services: dict[str, Service], *, database: bool, timeout_s: float) -> None:
        """Stops services, tracking last, and by choice the database."""
        self.stop_services(services, timeout_s)
        if not database:
            self._console.print("the database goes on, at the price that `plan` shows; `stop --database` stops it, too")
            return
        if (status := self.database()["DBInstanceStatus"]) in ("stopped", "stopping"):
            self._console.print(f"the database is {status} already")
        else:
            if status != "available" and not self._changes.dry_run:
                self._wait_for_database("available", timeout_s)
            self._changes.make("stop the database", self._rds.stop_db_instance, DBInstanceIdentifier=self._stack.database)
        self._console.print(SEVEN_DAYS)

    def stop_services(self, services: dict[str, Service], timeout_s: float) -> None:
        """Stops services, tracking last, and waits until no task of them runs."""
        for service in reversed(services.values()):
            self._deployer.scale(service, 0)
        if not self._changes.dry_run:
            for service in services.values():
                self._wait_until_stopped(service, timeout_s)

    def start_database(self, timeout_s: float) -> None:
        """Starts the database where it is stopped, and waits for it."""
        status = self.database()["DBInstanceStatus"]
        if status == "stopping" and not self._changes.dry_run:
            status = self._wait_for_database("stopped", timeout_s)
        if status in ("stopped", "stopping"):
            self._changes.make("start the database", self._rds.start_db_instance, DBInstanceIdentifier=self._stack.database)
        if status != "available" and not self._changes.dry_run:
            self._wait_for_database("available", timeout_s)

    def _wait_for_database(self, wanted: str, timeout_s: float) -> str:
        def look() -> tuple[str | None, str]:
            status = self.database()["DBInstanceStatus"]
            return (wanted if status == wanted else None), f"it is {status}"

        return self._poller.until(f"the database is {wanted} (some minutes)", look, timeout_s)

    def _wait_until_stopped(self, service: Service, timeout_s: float) -> None:
        def look() -> tuple[bool | None, str]:
            running = self._deployer.describe(service)["runningCount"]
            return (True if running == 0 else None), f"{running} tasks run"

        self._poller.until(f"{service.service} has ended", look, timeout_s)
