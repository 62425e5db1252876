"""`deploy`: the template with an image, watched until it is healthy, taken back when it never is."""

from datetime import UTC, datetime

import pytest
from atelier_infra.errors import DeploymentError, NotReadyError

from .stubs import ARN, REPOSITORY, Scene, service


def definition(revision, image):
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


class Ecs:
    def __init__(self, scene):
        self.stub = scene.stub("ecs")

    def service(self, revision, *, desired=1, running=1, state="COMPLETED", events=(), reason=""):
        deployment = {
            "id": "d",
            "status": "PRIMARY",
            "taskDefinition": f"{ARN}{revision}",
            "rolloutState": state,
            "rolloutStateReason": reason,
        }
        told = [{"id": text, "message": text, "createdAt": datetime(2026, 1, 1, 12, tzinfo=UTC)} for text in events]
        described = {
            "serviceName": "tracking",
            "status": "ACTIVE",
            "taskDefinition": f"{ARN}{revision}",
            "desiredCount": desired,
            "runningCount": running,
            "deployments": [deployment],
            "events": told,
        }
        self.stub.add_response("describe_services", {"services": [described]}, {"cluster": "atelier", "services": ["tracking"]})

    def definition(self, found, tags=()):
        self.stub.add_response(
            "describe_task_definition",
            {"taskDefinition": found, "tags": list(tags)},
            {"taskDefinition": found["taskDefinitionArn"], "include": ["TAGS"]},
        )

    def updated(self, **change):
        self.stub.add_response("update_service", {}, {"cluster": "atelier", "service": "tracking", **change})

    def registered(self):
        keys = ("family", "cpu", "memory", "networkMode", "requiresCompatibilities", "containerDefinitions")
        wanted = {key: TEMPLATE[key] for key in keys}
        wanted["containerDefinitions"] = [TEMPLATE["containerDefinitions"][0] | {"image": f"{REPOSITORY}:new"}]
        wanted["tags"] = [{"key": "project", "value": "atelier"}]
        self.stub.add_response("register_task_definition", {"taskDefinition": NEW}, wanted)

    def rolls_out_from(self, revision, **service):
        self.service(revision, **service)
        self.definition(TEMPLATE, tags=[{"key": "project", "value": "atelier"}])
        self.registered()
        self.updated(taskDefinition=f"{ARN}3")


@pytest.fixture
def scene(monkeypatch):
    return Scene(monkeypatch)


@pytest.fixture
def ecs(scene):
    return Ecs(scene)


def test_a_healthy_rollout_changes_only_the_image(scene, ecs):
    ecs.rolls_out_from(2)
    ecs.service(3, state="IN_PROGRESS", running=0)
    ecs.service(3, state="IN_PROGRESS", running=0, events=["has started 1 tasks"])
    ecs.service(3, state="COMPLETED", events=["has reached a steady state", "has started 1 tasks"])
    scene.deployer().deploy(service(), "new", 60)
    scene.all_said()
    assert scene.text.count("has started 1 tasks") == 1
    assert "tracking is healthy" in scene.text


def test_a_stopped_service_takes_the_revision_without_waiting(scene, ecs):
    ecs.rolls_out_from(1, desired=0, running=0)
    scene.deployer().deploy(service(), "new", 60)
    scene.all_said()
    assert "start` runs new" in scene.text


def test_a_rollout_that_ecs_gives_up_is_taken_back_with_its_events(scene, ecs):
    ecs.rolls_out_from(2)
    ecs.service(3, state="IN_PROGRESS", running=0)
    ecs.service(3, state="FAILED", running=0, events=["task failed container health checks"], reason="tasks failed to start.")
    ecs.definition(OLD)
    ecs.definition(OLD)
    ecs.updated(taskDefinition=f"{ARN}2")
    ecs.service(2)
    ecs.service(2)
    with pytest.raises(DeploymentError, match=r"tracking new never became healthy: tasks failed to start"):
        scene.deployer().deploy(service(), "new", 60)
    scene.all_said()
    assert "task failed container health checks" in scene.text
    assert "go back to old" in scene.text


def test_ecs_going_back_by_itself_counts_as_failed(scene, ecs):
    ecs.rolls_out_from(2)
    ecs.service(3, state="IN_PROGRESS")
    ecs.service(2, state="IN_PROGRESS")
    ecs.definition(OLD)
    ecs.definition(OLD)
    ecs.updated(taskDefinition=f"{ARN}2")
    ecs.service(2)
    ecs.service(2)
    with pytest.raises(DeploymentError, match="ECS reverted"):
        scene.deployer().deploy(service(), "new", 60)
    scene.all_said()


def test_a_rollout_that_hangs_ends_with_its_time(scene, ecs):
    ecs.rolls_out_from(2)
    ecs.service(3, state="IN_PROGRESS", running=0)
    for _ in range(4):
        ecs.service(3, state="IN_PROGRESS", running=0)
    ecs.definition(OLD)
    ecs.definition(OLD)
    ecs.updated(taskDefinition=f"{ARN}2")
    ecs.service(2)
    ecs.service(2)
    with pytest.raises(
        DeploymentError, match=r"after 15 s of waiting until tracking is healthy, it stands so: 0 of 1 tasks run"
    ):
        scene.deployer().deploy(service(), "new", 15)
    scene.all_said()


def test_a_first_rollout_that_fails_stops_the_service(scene, ecs):
    ecs.rolls_out_from(1)
    ecs.service(3, state="IN_PROGRESS", running=0)
    ecs.service(3, state="FAILED", running=0)
    ecs.definition(TEMPLATE)
    ecs.updated(desiredCount=0)
    with pytest.raises(DeploymentError):
        scene.deployer().deploy(service(), "new", 60)
    scene.all_said()


def test_a_service_that_is_gone_is_named(scene):
    scene.stub("ecs").add_response("describe_services", {"services": [], "failures": []})
    with pytest.raises(NotReadyError, match="service tracking is not in cluster atelier"):
        scene.deployer().describe(service())


def test_a_dry_run_registers_nothing(monkeypatch):
    scene = Scene(monkeypatch, dry_run=True)
    ecs = Ecs(scene)
    ecs.service(2)
    ecs.definition(TEMPLATE)
    scene.deployer().deploy(service(), "new", 60)
    scene.all_said()
    assert "would register tracking new" in scene.text and "would deploy tracking new" in scene.text
