"""`upgrade`, and how it recovers from failures."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from atelier_infra.commands.deploy import Deployer
from atelier_infra.commands.start_stop import StartStop
from atelier_infra.commands.upgrade import Upgrade
from atelier_infra.environment.one_off_task import OneOffTask
from atelier_infra.environment.snapshots import Snapshots
from atelier_infra.errors import DeploymentError, InputError, NotReadyError
from rich.console import Console

from .stubs import ARN, StubEnvironment, service
from .test_deploy import OLD, TEMPLATE, EcsResponses

TASK = "arn:aws:ecs:eu-central-1:123456789012:task/atelier/0123456789abcdef"
NETWORK = {"awsvpcConfiguration": {"subnets": ["subnet-1"], "securityGroups": ["sg-1"], "assignPublicIp": "ENABLED"}}


class UpgradeResponses(EcsResponses):
    """Responses of ECS, RDS and CloudWatch in the order of the calls."""

    def __init__(self, env: StubEnvironment) -> None:
        super().__init__(env)
        self.env, self.rds, self.logs = env, env.stub("rds"), env.stub("logs")

    def parts(self) -> tuple[Deployer, StartStop, Snapshots, OneOffTask, Console]:
        deployer = self.env.deployer()
        stack, aws, changes, poller = self.env.stack, self.env.aws, self.env.changes, self.env.poller
        snapshots = Snapshots(stack, aws, changes, poller)
        one_off = OneOffTask(stack, aws, changes, poller)
        return deployer, self.env.start_stop(), snapshots, one_off, self.env.console

    def upgrade(self) -> None:
        Upgrade(*self.parts()).run(self.env.stack.services, "new", 60)

    def before_migration(self, *statuses: str) -> None:
        """A running service, an available database, a snapshot, the stop of the service."""
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

    def database(self, status: str) -> None:
        found = {"DBInstanceIdentifier": "atelier", "DBInstanceStatus": status, "EngineVersion": "17.6"}
        self.rds.add_response("describe_db_instances", {"DBInstances": [found]}, {"DBInstanceIdentifier": "atelier"})

    def migration(self, code: int | None, *, log: list[str] = ("migrated",), reason: str = "") -> None:  # type: ignore[assignment]
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
        request = {"cluster": "atelier", "tasks": [TASK]}
        self.stub.add_response("describe_tasks", {"tasks": [{"lastStatus": "PENDING"}]}, request)
        ended = {"lastStatus": "STOPPED", "stoppedReason": reason, "containers": [{} if code is None else {"exitCode": code}]}
        self.stub.add_response("describe_tasks", {"tasks": [ended]}, request)
        stream = {"logGroupName": "/atelier/tracking", "logStreamName": "task/tracking/0123456789abcdef", "startFromHead": True}
        events = [{"timestamp": 1, "message": line} for line in log]
        self.logs.add_response("get_log_events", {"events": events}, stream)


@pytest.fixture
def responses(monkeypatch: pytest.MonkeyPatch) -> UpgradeResponses:
    return UpgradeResponses(StubEnvironment(monkeypatch))


def test_tracking_is_stopped_during_the_migration(responses: UpgradeResponses) -> None:
    responses.before_migration()
    responses.migration(0, log=["migrated from revision a to b"])
    responses.updated(taskDefinition=f"{ARN}3", desiredCount=1)
    responses.service(3, state="IN_PROGRESS", running=0)
    responses.service(3)
    responses.upgrade()
    responses.env.assert_all_called()
    assert "migrated from revision a to b" in responses.env.output
    assert "python -m atelier_infra deploy tracking --tag old" in responses.env.output


@pytest.mark.parametrize(("code", "words"), [(1, "exited with code 1"), (None, "exited without an exit code")])
def test_a_failed_migration_starts_the_old_revision_and_prints_the_rollback(
    responses: UpgradeResponses, code: int | None, words: str
) -> None:
    responses.before_migration()
    responses.migration(code, log=["the database could not be migrated"], reason="Essential container exited")
    responses.updated(desiredCount=1)
    with pytest.raises(DeploymentError) as error:
        responses.upgrade()
    responses.env.assert_all_called()
    assert words in str(error.value) and "old was started again" in str(error.value)
    assert "python -m atelier_infra restore atelier-before-new-" in str(error.value)
    assert "the database could not be migrated" in responses.env.output


def test_a_failed_snapshot_changes_nothing(responses: UpgradeResponses) -> None:
    responses.before_migration("creating", "failed")
    with pytest.raises(NotReadyError, match="nothing else was changed"):
        responses.upgrade()
    responses.env.assert_all_called()


def test_missing_capacity_is_reported(responses: UpgradeResponses) -> None:
    responses.stub.add_response("run_task", {"tasks": [], "failures": [{"reason": "RESOURCE:CPU"}]})
    *_, one_off, _ = responses.parts()
    with pytest.raises(NotReadyError, match="ECS started no task for `gc`: RESOURCE:CPU"):
        one_off.run(service(), NETWORK, f"{ARN}3", ["gc"], 60)


def test_upgrade_needs_a_deployed_image(responses: UpgradeResponses) -> None:
    responses.service(1)
    responses.definition(TEMPLATE)
    with pytest.raises(NotReadyError, match="tracking has no image to upgrade from"):
        responses.upgrade()
    responses.env.assert_all_called()


def test_a_snapshot_of_another_database_is_refused(responses: UpgradeResponses) -> None:
    found = {"DBSnapshotIdentifier": "s", "DBInstanceIdentifier": "another", "Status": "available"}
    responses.rds.add_response("describe_db_snapshots", {"DBSnapshots": [found]})
    _, _, snapshots, *_ = responses.parts()
    with pytest.raises(InputError, match="database atelier has no complete snapshot s"):
        snapshots.check("s")


def test_snapshot_identifiers_are_valid_for_rds(responses: UpgradeResponses) -> None:
    responses.rds.add_response("create_db_snapshot", {}, None)
    responses.rds.add_response("describe_db_snapshots", {"DBSnapshots": [{"Status": "available"}]}, None)
    _, _, snapshots, *_ = responses.parts()
    name = snapshots.create("before-v1.2__rc", 60)
    assert name.startswith("atelier-before-v1-2-rc-") and f"{datetime.now(UTC):%Y}" in name
