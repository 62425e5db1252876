"""`upgrade` where something goes wrong: nothing half done is left without its way back."""

from datetime import UTC, datetime

import pytest
from atelier_infra.commands.upgrade import upgrade
from atelier_infra.environment.one_off_task import OneOffTask
from atelier_infra.environment.snapshots import Snapshots
from atelier_infra.errors import AnswerError, DeploymentError, NotReadyError

from .stubs import ARN, Scene, service
from .test_deploy import OLD, TEMPLATE, Ecs

TASK = "arn:aws:ecs:eu-central-1:123456789012:task/atelier/0123456789abcdef"
NETWORK = {"awsvpcConfiguration": {"subnets": ["subnet-1"], "securityGroups": ["sg-1"], "assignPublicIp": "ENABLED"}}


class World(Ecs):
    """What ECS, RDS and CloudWatch answer, in the order in which they are asked."""

    def __init__(self, scene):
        super().__init__(scene)
        self.scene, self.rds, self.logs = scene, scene.stub("rds"), scene.stub("logs")

    def parts(self):
        deployer = self.scene.deployer()
        stack, aws, changes, poller = self.scene.stack, self.scene.aws, self.scene.changes, self.scene.poller
        snapshots = Snapshots(stack, aws, changes, poller)
        one_off = OneOffTask(stack, aws, changes, poller, self.scene.console)
        return deployer, self.scene.switch(), snapshots, one_off, self.scene.console

    def upgrade(self):
        upgrade(self.scene.stack.services, "new", *self.parts(), 60)

    def until_the_migration(self, *statuses):
        """A service of one task is asked, the database is there, a snapshot is taken, the task is stopped."""
        self.service(2)
        for _ in range(2):
            self.definition(OLD)
        self.database("available")
        self.rds.add_response("create_db_snapshot", {}, None)
        for status in statuses or ("creating", "available"):
            found = {"DBSnapshotIdentifier": "s", "Status": status}
            self.rds.add_response("describe_db_snapshots", {"DBSnapshots": [found]}, None)
        if statuses:
            return
        self.updated(desiredCount=0)
        self.service(2, desired=0, running=1)
        self.service(2, desired=0, running=0)
        self.definition(TEMPLATE, tags=[{"key": "project", "value": "atelier"}])
        self.registered()

    def database(self, status):
        found = {"DBInstanceIdentifier": "atelier", "DBInstanceStatus": status, "EngineVersion": "17.6"}
        self.rds.add_response("describe_db_instances", {"DBInstances": [found]}, {"DBInstanceIdentifier": "atelier"})

    def migration(self, code, *, said=("migrated",), reason=""):
        described = {"serviceName": "tracking", "status": "ACTIVE", "networkConfiguration": NETWORK}
        self.stub.add_response("describe_services", {"services": [described]}, {"cluster": "atelier", "services": ["tracking"]})
        wanted = {
            "cluster": "atelier",
            "taskDefinition": f"{ARN}3",
            "count": 1,
            "launchType": "FARGATE",
            "networkConfiguration": NETWORK,
            "overrides": {"containerOverrides": [{"name": "tracking", "command": ["migrate"]}]},
            "startedBy": "atelier_infra",
        }
        self.stub.add_response("run_task", {"tasks": [{"taskArn": TASK}], "failures": []}, wanted)
        asked = {"cluster": "atelier", "tasks": [TASK]}
        self.stub.add_response("describe_tasks", {"tasks": [{"lastStatus": "PENDING"}]}, asked)
        ended = {"lastStatus": "STOPPED", "stoppedReason": reason, "containers": [{} if code is None else {"exitCode": code}]}
        self.stub.add_response("describe_tasks", {"tasks": [ended]}, asked)
        place = {"logGroupName": "/atelier/tracking", "logStreamName": "task/tracking/0123456789abcdef", "startFromHead": True}
        events = [{"timestamp": 1, "message": line} for line in said]
        self.logs.add_response("get_log_events", {"events": events}, place)


@pytest.fixture
def world(monkeypatch):
    return World(Scene(monkeypatch))


def test_tracking_is_down_while_the_tables_change_and_the_old_image_never_meets_the_new_tables(world):
    world.until_the_migration()
    world.migration(0, said=["migrated from revision a to b"])
    world.updated(taskDefinition=f"{ARN}3", desiredCount=1)
    world.service(3, state="IN_PROGRESS", running=0)
    world.service(3)
    world.upgrade()
    world.scene.all_said()
    assert "migrated from revision a to b" in world.scene.text
    assert "python -m atelier_infra deploy tracking --tag old" in world.scene.text


@pytest.mark.parametrize(("code", "words"), [(1, "ended with 1"), (None, "ended with no exit code")])
def test_a_migration_that_fails_starts_the_old_revision_and_tells_the_way_back(world, code, words):
    world.until_the_migration()
    world.migration(code, said=["the database could not be migrated"], reason="Essential container exited")
    world.updated(desiredCount=1)
    with pytest.raises(DeploymentError) as told:
        world.upgrade()
    world.scene.all_said()
    assert words in str(told.value) and "old was started again" in str(told.value)
    assert "python -m atelier_infra restore atelier-before-new-" in str(told.value)
    assert "the database could not be migrated" in world.scene.text


def test_a_snapshot_that_fails_ends_it_before_anything_is_changed(world):
    world.until_the_migration("creating", "failed")
    with pytest.raises(NotReadyError, match="nothing else was done"):
        world.upgrade()
    world.scene.all_said()


def test_a_task_that_aws_has_no_place_for_is_told(world):
    described = {"serviceName": "tracking", "status": "ACTIVE", "networkConfiguration": NETWORK}
    world.stub.add_response("run_task", {"tasks": [], "failures": [{"reason": "RESOURCE:CPU"}]})
    *_, one_off, _ = world.parts()
    with pytest.raises(NotReadyError, match="ECS started no task for `gc`: RESOURCE:CPU"):
        one_off.run(service(), described, f"{ARN}3", ["gc"], 60)


def test_nothing_is_upgraded_that_was_never_deployed(world):
    world.service(1)
    world.definition(TEMPLATE)
    with pytest.raises(NotReadyError, match="tracking has no image yet"):
        world.upgrade()
    world.scene.all_said()


def test_a_snapshot_of_another_database_is_refused(world):
    found = {"DBSnapshotIdentifier": "s", "DBInstanceIdentifier": "another", "Status": "available"}
    world.rds.add_response("describe_db_snapshots", {"DBSnapshots": [found]})
    _, _, snapshots, *_ = world.parts()
    with pytest.raises(AnswerError, match="there is no complete snapshot s of database atelier"):
        snapshots.check("s")


def test_a_snapshots_name_is_one_that_rds_takes(world):
    world.rds.add_response("create_db_snapshot", {}, None)
    world.rds.add_response("describe_db_snapshots", {"DBSnapshots": [{"Status": "available"}]}, None)
    _, _, snapshots, *_ = world.parts()
    name = snapshots.take("before-v1.2__rc", 60)
    assert name.startswith("atelier-before-v1-2-rc-") and f"{datetime.now(UTC):%Y}" in name
