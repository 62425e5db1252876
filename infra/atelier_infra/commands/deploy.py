"""`deploy`: Terraform's task definition with an image filled in, rolled out until it is healthy or taken back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translated
from atelier_infra.aws.poller import Poller
from atelier_infra.environment.stack import Service, Stack
from atelier_infra.errors import DeploymentError, NotReadyError

PLACEHOLDER = ":not-deployed-yet"


class Deployer:
    """Rolls services of one cluster out, and watches them."""

    def __init__(self, stack: Stack, aws: Aws, changes: ChangeRunner, poller: Poller) -> None:
        self._stack, self._aws, self._changes, self._poller = stack, aws, changes, poller
        self._ecs = aws.client("ecs")

    def describe(self, service: Service) -> dict[str, Any]:
        """The service as ECS tells it.

        Raises:
            NotReadyError: somebody deleted it.
        """
        with translated(self._aws.region):
            found = self._ecs.describe_services(cluster=self._stack.cluster, services=[service.service])["services"]
        if not found or found[0]["status"] != "ACTIVE":
            raise NotReadyError(
                f"service {service.service} is not in cluster {self._stack.cluster}; run `python -m atelier_infra up`"
            )
        answer: dict[str, Any] = found[0]
        return answer

    def image(self, task_definition: str) -> str:
        return str(self.definition(task_definition)["containerDefinitions"][0]["image"])

    def is_deployed(self, described: dict[str, Any]) -> bool:
        """Whether the service's task definition names a real image."""
        return not self.image(described["taskDefinition"]).endswith(PLACEHOLDER)

    def deploy(self, service: Service, tag: str, timeout_s: float) -> None:
        """Rolls one image out.

        Args:
            service: of which.
            tag: of the image, which must be in the repository.
            timeout_s: to wait for the new tasks.

        Raises:
            RolloutError: the new revision never became healthy; the service runs the one before again.
        """
        before = self.describe(service)
        self.update_service(service, self.register(service, tag), tag, timeout_s, before)

    def register(self, service: Service, tag: str) -> str:
        """Makes a task definition of Terraform's with an image filled in; returns its ARN."""
        template = self.definition(str(service.template_arn))
        takes = self._ecs.meta.service_model.operation_model("RegisterTaskDefinition").input_shape.members
        wanted = {key: value for key, value in template.items() if key in takes}
        container, *others = wanted["containerDefinitions"]
        wanted["containerDefinitions"] = [container | {"image": f"{service.repository}:{tag}"}, *others]
        made = self._changes.make(f"register {service.service} {tag}", self._ecs.register_task_definition, **wanted)
        return str(made["taskDefinition"]["taskDefinitionArn"]) if made else "dry-run"

    def update_service(
        self, service: Service, new: str, tag: str, timeout_s: float, before: dict[str, Any], *, start: bool = False
    ) -> None:
        """Lets a service run a task definition.

        Args:
            service: which.
            new: ARN of the definition.
            tag: of its image, for messages.
            timeout_s: to wait for the new tasks.
            before: the service as it was, for the number of its tasks and for the way back.
            start: it was stopped for the upgrade; the same call starts it, so that the old image never runs in between.

        Raises:
            RolloutError: the new revision never became healthy; the service runs the one before again.
        """
        count = {"desiredCount": before["desiredCount"]} if start else {}
        self._update(f"deploy {service.service} {tag}", service, taskDefinition=new, **count)
        if self._changes.dry_run:
            return
        if before["desiredCount"] == 0:
            self._poller.console.print(
                f"{service.service} is stopped; `python -m atelier_infra start` runs {tag}", highlight=False
            )
            return
        try:
            self.wait(service, new, timeout_s)
        except (DeploymentError, NotReadyError) as error:
            self._revert_deployment(service, before, timeout_s)
            raise DeploymentError(f"{service.service} {tag} never became healthy: {error}") from error

    def wait(self, service: Service, wanted: str, timeout_s: float) -> None:
        """Waits until the wanted revision runs, and shows what ECS says meanwhile.

        Raises:
            RolloutError: ECS gave up, or went back by itself.
            NotReadyError: time is up.
        """
        seen = {each["id"] for each in self.describe(service).get("events", [])[1:]}

        def look() -> tuple[bool | None, str]:
            described = self.describe(service)
            self._print_events(described, seen)
            primary: dict[str, Any] = next((each for each in described["deployments"] if each["status"] == "PRIMARY"), {})
            stand = f"{described['runningCount']} of {described['desiredCount']} tasks run"
            if primary.get("taskDefinition") != wanted:
                raise DeploymentError("ECS reverted to the previous revision; see the events above and `logs`")
            if primary.get("rolloutState") == "FAILED":
                raise DeploymentError(f"{primary.get('rolloutStateReason', 'ECS gave up')}, see the events above and `logs`")
            settled = (
                primary.get("rolloutState", "COMPLETED") == "COMPLETED"
                and described["runningCount"] == described["desiredCount"]
            )
            return (True if settled else None), stand

        self._poller.until(f"{service.service} is healthy", look, timeout_s)
        self._poller.console.print(f"[green]✓[/] {service.service} is healthy", highlight=False)

    def scale(self, service: Service, count: int) -> None:
        self._update(f"{'start' if count else 'stop'} {service.service}", service, desiredCount=count)

    def _revert_deployment(self, service: Service, before: dict[str, Any], timeout_s: float) -> None:
        earlier = before["taskDefinition"]
        if self.image(earlier).endswith(PLACEHOLDER):
            self._update(f"stop {service.service}, which has no earlier revision", service, desiredCount=0)
            return
        # even where ECS has done so: its own way back may have been cut short
        self._update(f"go back to {self.image(earlier).rpartition(':')[2]}", service, taskDefinition=earlier)
        self.wait(service, earlier, timeout_s)

    def _update(self, said: str, service: Service, **change: Any) -> None:
        self._changes.make(said, self._ecs.update_service, cluster=self._stack.cluster, service=service.service, **change)

    def definition(self, arn: str) -> dict[str, Any]:
        with translated(self._aws.region):
            found = self._ecs.describe_task_definition(taskDefinition=arn, include=["TAGS"])
        tags = {"tags": found["tags"]} if found.get("tags") else {}
        return dict(found["taskDefinition"]) | tags

    def _print_events(self, described: dict[str, Any], seen: set[str]) -> None:
        fresh = [each for each in described.get("events", []) if each["id"] not in seen]
        for event in sorted(fresh, key=lambda each: each["createdAt"]):
            seen.add(event["id"])
            at = event["createdAt"]
            clock = f"{at:%H:%M:%S}" if isinstance(at, datetime) else str(at)
            self._poller.console.print(f"  {clock}  {event['message']}", highlight=False, markup=False, soft_wrap=True)
