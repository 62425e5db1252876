"""Runs a command of a service's image in a one-off task, with the service's settings, secrets and network."""

from __future__ import annotations

from typing import Any

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translate_errors
from atelier_infra.aws.poller import Poller
from atelier_infra.environment.stack import Service, Stack
from atelier_infra.errors import DeploymentError, NotReadyError


class OneOffTask:
    def __init__(self, stack: Stack, aws: Aws, changes: ChangeRunner, poller: Poller) -> None:
        self._stack, self._aws, self._changes, self._poller = stack, aws, changes, poller
        self._ecs = aws.client("ecs")

    def run(
        self,
        service: Service,
        network: dict[str, Any] | None,
        task_definition: str,
        command: list[str],
        timeout_s: float,
    ) -> None:
        """Runs a command until it exits, and prints its log.

        Args:
            service: the service.
            network: ECS's networkConfiguration of the service.
            task_definition: ARN of the task definition with the image.
            command: arguments of the image's entry point.
            timeout_s: seconds to wait for its exit.

        Raises:
            NotReadyError: ECS could not start the task, or the time ran out.
            DeploymentError: the command failed.
        """
        name, words = str(service.service), " ".join(command)
        response = self._changes.run(
            f"run `{words}` of {name}'s image",
            self._ecs.run_task,
            cluster=self._stack.cluster,
            taskDefinition=task_definition,
            count=1,
            launchType="FARGATE",
            networkConfiguration=network,
            overrides={"containerOverrides": [{"name": name, "command": command}]},
            startedBy="atelier_infra",
        )
        if response is None:
            return
        if not response["tasks"]:
            reasons = ", ".join(str(failure.get("reason")) for failure in response.get("failures", []))
            raise NotReadyError(f"ECS started no task for `{words}`: {reasons}; try again")
        arn: str = response["tasks"][0]["taskArn"]

        def check() -> tuple[dict[str, Any] | None, str]:
            tasks = self._ecs.describe_tasks(cluster=self._stack.cluster, tasks=[arn])["tasks"]
            status = tasks[0]["lastStatus"] if tasks else "unknown"
            return (tasks[0] if status == "STOPPED" else None), f"the task is {status}"

        task = self._poller.until(f"`{words}` has exited", check, timeout_s)
        self._print_log(service, arn.rpartition("/")[2])
        code = task["containers"][0].get("exitCode") if task.get("containers") else None
        if code != 0:
            reason = task.get("stoppedReason") or "no reason was given"
            result = "without an exit code" if code is None else f"with code {code}"
            raise DeploymentError(f"`{words}` exited {result} ({reason}); its log is above")

    def _print_log(self, service: Service, task_id: str) -> None:
        logs, stream = self._aws.client("logs"), f"task/{service.service}/{task_id}"
        with translate_errors(self._aws.region):
            try:
                response = logs.get_log_events(logGroupName=service.log_group, logStreamName=stream, startFromHead=True)
            except logs.exceptions.ResourceNotFoundException:
                return  # the task exited before it logged anything
        for event in response["events"]:
            self._changes.console.print(f"  {event['message'].rstrip()}", highlight=False, markup=False, soft_wrap=True)
