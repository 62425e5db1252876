"""`deploy` registers the template with an image, waits until it is healthy, and reverts it otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from atelier_infra.errors import DeploymentError, NotReadyError

from .stubs import ARN, REPOSITORY, StubEnvironment, service


def definition(revision: int, image: str) -> Any:
    container = {"name": "tracking", "image": image, "environment": [{"name": "DB_PORT", "value": "5432"}]}
    return {
        "taskDefinitionArn": f"{ARN}{revision}",
        "family": "atelier-tracking",
        "revision": revision,
        "status": "ACTIVE",
        "cpu": "256",
        "memory": "1024",
        "networkMode": "awsvpc",
        "requiresCompatibilities": ["FARGATE"],
        "compatibilities": ["EC2", "FARGATE"],
        "requiresAttributes": [{"name": "x"}],
        "registeredAt": datetime(2026, 1, 1, tzinfo=UTC),
        "registeredBy": "somebody",
        "containerDefinitions": [container],
    }


TEMPLATE, OLD, NEW = (
    definition(1, f"{REPOSITORY}:not-deployed-yet"),
    definition(2, f"{REPOSITORY}:old"),
    definition(3, f"{REPOSITORY}:new"),
)


class EcsResponses:
    def __init__(self, env: StubEnvironment) -> None:
        self.stub = env.stub("ecs")

    def service(
        self,
        revision: int,
        *,
        desired: int = 1,
        running: int = 1,
        state: str = "COMPLETED",
        events: list[str] | tuple[Any, ...] = (),
        reason: str = "",
    ) -> None:
        deployment = {
            "id": "d",
            "status": "PRIMARY",
            "taskDefinition": f"{ARN}{revision}",
            "rolloutState": state,
            "rolloutStateReason": reason,
        }
        event_list = [{"id": text, "message": text, "createdAt": datetime(2026, 1, 1, 12, tzinfo=UTC)} for text in events]
        described = {
            "serviceName": "tracking",
            "status": "ACTIVE",
            "taskDefinition": f"{ARN}{revision}",
            "desiredCount": desired,
            "runningCount": running,
            "deployments": [deployment],
            "events": event_list,
        }
        self.stub.add_response("describe_services", {"services": [described]}, {"cluster": "atelier", "services": ["tracking"]})

    def definition(self, definition: Any, tags: Sequence[Any] = ()) -> None:
        self.stub.add_response(
            "describe_task_definition",
            {"taskDefinition": definition, "tags": list(tags)},
            {"taskDefinition": definition["taskDefinitionArn"], "include": ["TAGS"]},
        )

    def updated(self, **change: Any) -> None:
        self.stub.add_response("update_service", {}, {"cluster": "atelier", "service": "tracking", **change})

    def registered(self) -> None:
        keys = ("family", "cpu", "memory", "networkMode", "requiresCompatibilities", "containerDefinitions")
        wanted = {key: TEMPLATE[key] for key in keys}
        wanted["containerDefinitions"] = [TEMPLATE["containerDefinitions"][0] | {"image": f"{REPOSITORY}:new"}]
        wanted["tags"] = [{"key": "project", "value": "atelier"}]
        self.stub.add_response("register_task_definition", {"taskDefinition": NEW}, wanted)

    def starts_deployment_from(self, revision: int, **service: Any) -> None:
        self.service(revision, **service)
        self.definition(TEMPLATE, tags=[{"key": "project", "value": "atelier"}])
        self.registered()
        self.updated(taskDefinition=f"{ARN}3")


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> StubEnvironment:
    return StubEnvironment(monkeypatch)


@pytest.fixture
def ecs(env: StubEnvironment) -> EcsResponses:
    return EcsResponses(env)


def test_a_deployment_changes_only_the_image(env: StubEnvironment, ecs: EcsResponses) -> None:
    ecs.starts_deployment_from(2)
    ecs.service(3, state="IN_PROGRESS", running=0)
    ecs.service(3, state="IN_PROGRESS", running=0, events=["has started 1 tasks"])
    ecs.service(3, state="COMPLETED", events=["has reached a steady state", "has started 1 tasks"])
    env.deployer().deploy(service(), "new", 60)
    env.assert_all_called()
    assert env.output.count("has started 1 tasks") == 1
    assert "tracking is healthy" in env.output


def test_deploying_to_a_stopped_service_does_not_wait(env: StubEnvironment, ecs: EcsResponses) -> None:
    ecs.starts_deployment_from(1, desired=0, running=0)
    env.deployer().deploy(service(), "new", 60)
    env.assert_all_called()
    assert "start` runs new" in env.output


def test_a_failed_deployment_is_reverted_and_its_events_are_printed(env: StubEnvironment, ecs: EcsResponses) -> None:
    ecs.starts_deployment_from(2)
    ecs.service(3, state="IN_PROGRESS", running=0)
    ecs.service(3, state="FAILED", running=0, events=["task failed container health checks"], reason="tasks failed to start.")
    ecs.definition(OLD)
    ecs.definition(OLD)
    ecs.updated(taskDefinition=f"{ARN}2")
    ecs.service(2)
    ecs.service(2)
    with pytest.raises(DeploymentError, match=r"tracking new never became healthy: tasks failed to start"):
        env.deployer().deploy(service(), "new", 60)
    env.assert_all_called()
    assert "task failed container health checks" in env.output
    assert "revert to old" in env.output


def test_a_revert_by_ecs_counts_as_failure(env: StubEnvironment, ecs: EcsResponses) -> None:
    ecs.starts_deployment_from(2)
    ecs.service(3, state="IN_PROGRESS")
    ecs.service(2, state="IN_PROGRESS")
    ecs.definition(OLD)
    ecs.definition(OLD)
    ecs.updated(taskDefinition=f"{ARN}2")
    ecs.service(2)
    ecs.service(2)
    with pytest.raises(DeploymentError, match="ECS reverted"):
        env.deployer().deploy(service(), "new", 60)
    env.assert_all_called()


def test_a_deployment_that_times_out_is_reverted(env: StubEnvironment, ecs: EcsResponses) -> None:
    ecs.starts_deployment_from(2)
    ecs.service(3, state="IN_PROGRESS", running=0)
    for _ in range(4):
        ecs.service(3, state="IN_PROGRESS", running=0)
    ecs.definition(OLD)
    ecs.definition(OLD)
    ecs.updated(taskDefinition=f"{ARN}2")
    ecs.service(2)
    ecs.service(2)
    with pytest.raises(
        DeploymentError,
        match=r"timed out after 15 s waiting until tracking is healthy; last state: 0 of 1 tasks running",
    ):
        env.deployer().deploy(service(), "new", 15)
    env.assert_all_called()


def test_a_failed_first_deployment_stops_the_service(env: StubEnvironment, ecs: EcsResponses) -> None:
    ecs.starts_deployment_from(1)
    ecs.service(3, state="IN_PROGRESS", running=0)
    ecs.service(3, state="FAILED", running=0)
    ecs.definition(TEMPLATE)
    ecs.updated(desiredCount=0)
    with pytest.raises(DeploymentError):
        env.deployer().deploy(service(), "new", 60)
    env.assert_all_called()


def test_a_deleted_service_is_reported(env: StubEnvironment) -> None:
    env.stub("ecs").add_response("describe_services", {"services": [], "failures": []})
    with pytest.raises(NotReadyError, match="service tracking does not exist in cluster atelier"):
        env.deployer().describe(service())


def test_a_dry_run_registers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    env = StubEnvironment(monkeypatch, dry_run=True)
    ecs = EcsResponses(env)
    ecs.service(2)
    ecs.definition(TEMPLATE)
    env.deployer().deploy(service(), "new", 60)
    env.assert_all_called()
    assert "would register tracking new" in env.output and "would deploy tracking new" in env.output
