"""`deploy`: registers Terraform's task definition with an image, deploys it, and reverts it if it never becomes healthy."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translate_errors
from atelier_infra.aws.poller import Poller
from atelier_infra.environment.stack import Service, Stack
from atelier_infra.errors import DeploymentError, NotReadyError

PLACEHOLDER = ":not-deployed-yet"


class Deployer:
    def __init__(self, stack: Stack, aws: Aws, changes: ChangeRunner, poller: Poller) -> None:
        self._stack, self._aws, self._changes, self._poller = stack, aws, changes, poller
        self._ecs = aws.client("ecs")

    def describe(self, service: Service) -> dict[str, Any]:
        """ECS's description of the service.

        Raises:
            NotReadyError: the service was deleted.
        """
        with translate_errors(self._aws.region):
            response = self._ecs.describe_services(cluster=self._stack.cluster, services=[service.service])
        descriptions: list[dict[str, Any]] = response["services"]
        if not descriptions or descriptions[0]["status"] != "ACTIVE":
            raise NotReadyError(
                f"service {service.service} does not exist in cluster {self._stack.cluster}; run `python -m atelier_infra up`"
            )
        return descriptions[0]

    def image(self, task_definition: str) -> str:
        return str(self.definition(task_definition)["containerDefinitions"][0]["image"])

    def image_tag(self, description: dict[str, Any]) -> str:
        """Tag of the image in the service's task definition."""
        return self.image(description["taskDefinition"]).rpartition(":")[2]

    def is_deployed(self, description: dict[str, Any]) -> bool:
        """Whether the service's task definition has an image and not the placeholder."""
        return not self.image(description["taskDefinition"]).endswith(PLACEHOLDER)

    def deploy(self, service: Service, tag: str, timeout_s: float) -> None:
        """Deploys an image that was pushed, and waits until the service is healthy.

        Raises:
            DeploymentError: the new revision never became healthy; the previous one runs again.
        """
        before = self.describe(service)
        self.update_service(service, self.register(service, tag), tag, timeout_s, before)

    def register(self, service: Service, tag: str) -> str:
        """Registers Terraform's task definition with an image; returns the ARN."""
        template = self.definition(str(service.template_arn))
        parameters = self._ecs.meta.service_model.operation_model("RegisterTaskDefinition").input_shape.members
        definition = {key: value for key, value in template.items() if key in parameters}
        container, *others = definition["containerDefinitions"]
        definition["containerDefinitions"] = [container | {"image": f"{service.repository}:{tag}"}, *others]
        description = f"register {service.service} {tag}"
        response = self._changes.run(description, self._ecs.register_task_definition, **definition)
        return str(response["taskDefinition"]["taskDefinitionArn"]) if response else "dry-run"

    def update_service(
        self, service: Service, definition: str, tag: str, timeout_s: float, before: dict[str, Any], *, start: bool = False
    ) -> None:
        """Switches a service to a task definition, and waits until it is healthy.

        Args:
            service: the service.
            definition: ARN of the task definition.
            tag: tag of its image, for messages.
            timeout_s: seconds to wait for the new tasks.
            before: description of the service before the change: number of tasks, and what to revert to.
            start: the service was stopped for an upgrade; the same call starts it, so that the old image never runs in between.

        Raises:
            DeploymentError: the new revision never became healthy; the previous one runs again.
        """
        count = {"desiredCount": before["desiredCount"]} if start else {}
        self._update(f"deploy {service.service} {tag}", service, taskDefinition=definition, **count)
        if self._changes.dry_run:
            return
        if before["desiredCount"] == 0:
            self._poller.console.print(
                f"{service.service} is stopped; `python -m atelier_infra start` runs {tag}", highlight=False
            )
            return
        try:
            self.wait(service, definition, timeout_s)
        except (DeploymentError, NotReadyError) as error:
            self._revert(service, before, timeout_s)
            raise DeploymentError(f"{service.service} {tag} never became healthy: {error}") from error

    def wait(self, service: Service, definition: str, timeout_s: float) -> None:
        """Waits until a task definition runs, and prints ECS's events meanwhile.

        Raises:
            DeploymentError: the deployment failed, or ECS reverted it.
            NotReadyError: the time ran out.
        """
        printed = {event["id"] for event in self.describe(service).get("events", [])[1:]}

        def check() -> tuple[bool | None, str]:
            description = self.describe(service)
            self._print_events(description, printed)
            primary = primary_deployment(description)
            state = f"{description['runningCount']} of {description['desiredCount']} tasks running"
            if primary.get("taskDefinition") != definition:
                raise DeploymentError("ECS reverted to the previous revision; see the events above and `logs`")
            if primary.get("rolloutState") == "FAILED":
                reason = primary.get("rolloutStateReason", "the deployment failed")
                raise DeploymentError(f"{reason}, see the events above and `logs`")
            is_complete = (
                primary.get("rolloutState", "COMPLETED") == "COMPLETED"
                and description["runningCount"] == description["desiredCount"]
            )
            return (True if is_complete else None), state

        self._poller.until(f"{service.service} is healthy", check, timeout_s)
        self._poller.console.print(f"[green]✓[/] {service.service} is healthy", highlight=False)

    def scale(self, service: Service, count: int) -> None:
        self._update(f"{'start' if count else 'stop'} {service.service}", service, desiredCount=count)

    def definition(self, arn: str) -> dict[str, Any]:
        """ECS's description of a task definition, with its tags."""
        with translate_errors(self._aws.region):
            response = self._ecs.describe_task_definition(taskDefinition=arn, include=["TAGS"])
        tags = {"tags": response["tags"]} if response.get("tags") else {}
        return dict(response["taskDefinition"]) | tags

    def _revert(self, service: Service, before: dict[str, Any], timeout_s: float) -> None:
        previous = before["taskDefinition"]
        if self.image(previous).endswith(PLACEHOLDER):
            self._update(f"stop {service.service}, which has no previous revision", service, desiredCount=0)
            return
        # also if ECS has reverted by itself: that may have been interrupted
        self._update(f"revert to {self.image_tag(before)}", service, taskDefinition=previous)
        self.wait(service, previous, timeout_s)

    def _update(self, description: str, service: Service, **change: Any) -> None:
        self._changes.run(description, self._ecs.update_service, cluster=self._stack.cluster, service=service.service, **change)

    def _print_events(self, description: dict[str, Any], printed: set[str]) -> None:
        new = [event for event in description.get("events", []) if event["id"] not in printed]
        for event in sorted(new, key=lambda event: event["createdAt"]):
            printed.add(event["id"])
            created_at = event["createdAt"]
            time = f"{created_at:%H:%M:%S}" if isinstance(created_at, datetime) else str(created_at)
            self._poller.console.print(f"  {time}  {event['message']}", highlight=False, markup=False, soft_wrap=True)


def primary_deployment(description: dict[str, Any]) -> dict[str, Any]:
    """The deployment that ECS is moving the service to; empty without one."""
    primary: dict[str, Any] = next(
        (deployment for deployment in description["deployments"] if deployment["status"] == "PRIMARY"), {}
    )
    return primary
