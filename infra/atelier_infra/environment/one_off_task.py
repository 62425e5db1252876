"""Commands of the tracking image, each run by a task of its own with the settings and secrets of the service."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translated
from atelier_infra.aws.poller import Poller
from atelier_infra.environment.stack import Service, Stack
from atelier_infra.errors import DeploymentError, NotReadyError


class OneOffTask:
    """Runs a task to its end, and shows what it said."""

    def __init__(self, stack: Stack, aws: Aws, changes: ChangeRunner, poller: Poller, console: Console) -> None:
        self._stack, self._aws, self._changes, self._poller, self._console = stack, aws, changes, poller, console
        self._ecs = aws.client("ecs")

    def run(
        self, service: Service, described: dict[str, Any], task_definition: str, command: list[str], timeout_s: float
    ) -> None:
        """Runs one command.

        Args:
            service: whose container it is.
            described: the service as ECS describes it, for its network.
            task_definition: with the image.
            command: after the image's entry point.
            timeout_s: to wait for its end.

        Raises:
            NotReadyError: AWS has no place for the task, or it goes on for too long.
            RolloutError: it ended with an error; its log is shown.
        """
        name, words = str(service.service), " ".join(command)
        answer = self._changes.make(
            f"run `{words}` of {name}'s image",
            self._ecs.run_task,
            cluster=self._stack.cluster,
            taskDefinition=task_definition,
            count=1,
            launchType="FARGATE",
            networkConfiguration=described.get("networkConfiguration"),
            overrides={"containerOverrides": [{"name": name, "command": command}]},
            startedBy="atelier_infra",
        )
        if answer is None:
            return
        if not answer["tasks"]:
            reasons = ", ".join(str(each.get("reason")) for each in answer.get("failures", []))
            raise NotReadyError(f"ECS started no task for `{words}`: {reasons}; try again")
        arn: str = answer["tasks"][0]["taskArn"]

        def look() -> tuple[dict[str, Any] | None, str]:
            found = self._ecs.describe_tasks(cluster=self._stack.cluster, tasks=[arn])["tasks"]
            status = found[0]["lastStatus"] if found else "not known yet"
            return (found[0] if status == "STOPPED" else None), f"the task is {status}"

        ended = self._poller.until(f"`{words}` has ended", look, timeout_s)
        self._show_log(service, arn.rpartition("/")[2])
        code = ended["containers"][0].get("exitCode") if ended.get("containers") else None
        if code != 0:
            why = ended.get("stoppedReason") or "no reason was given"
            raise DeploymentError(f"`{words}` ended with {'no exit code' if code is None else code} ({why}); its log is above")

    def _show_log(self, service: Service, task: str) -> None:
        logs, place = self._aws.client("logs"), f"task/{service.service}/{task}"
        with translated(self._aws.region):
            try:
                found = logs.get_log_events(logGroupName=service.log_group, logStreamName=place, startFromHead=True)["events"]
            except logs.exceptions.ResourceNotFoundException:
                return  # it ended before it said anything
        for event in found:
            self._console.print(f"  {event['message'].rstrip()}", highlight=False, markup=False, soft_wrap=True)
