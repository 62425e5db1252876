"""`start`, `stop`, `url`, `status` and `logs` against responses of AWS."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest
from atelier_infra.commands.logs import log_lines, parse_duration_s
from atelier_infra.commands.status import print_status
from atelier_infra.commands.url import url
from atelier_infra.environment.stack import read_stack
from atelier_infra.errors import AwsError, InputError, NotReadyError

from .stubs import ARN, REPOSITORY, StubEnvironment, service, stack


class AwsResponses:
    """Responses in the order of the calls."""

    def __init__(self, env: StubEnvironment) -> None:
        self.ecs, self.rds = env.stub("ecs"), env.stub("rds")

    def service(
        self, *, desired: int = 0, running: int = 0, revision: int = 2, state: str = "COMPLETED", name: str = "tracking"
    ) -> None:
        deployment = {"id": "d", "status": "PRIMARY", "taskDefinition": f"{ARN}{revision}", "rolloutState": state}
        described = {
            "serviceName": name,
            "status": "ACTIVE",
            "taskDefinition": f"{ARN}{revision}",
            "desiredCount": desired,
            "runningCount": running,
            "deployments": [deployment],
            "events": [],
        }
        self.ecs.add_response("describe_services", {"services": [described]}, {"cluster": "atelier", "services": [name]})

    def image(self, tag: str, *, revision: int = 2, memory: str = "1024") -> None:
        container = {"name": "tracking", "image": f"{REPOSITORY}:{tag}"}
        definition = {"taskDefinitionArn": f"{ARN}{revision}", "memory": memory, "containerDefinitions": [container]}
        request = {"taskDefinition": f"{ARN}{revision}", "include": ["TAGS"]}
        self.ecs.add_response("describe_task_definition", {"taskDefinition": definition}, request)

    def scaled(self, count: int, name: str = "tracking") -> None:
        self.ecs.add_response("update_service", {}, {"cluster": "atelier", "service": name, "desiredCount": count})

    def database(self, status: str, **more: Any) -> None:
        instance = {"DBInstanceIdentifier": "atelier", "DBInstanceStatus": status, "EngineVersion": "17.6", **more}
        self.rds.add_response("describe_db_instances", {"DBInstances": [instance]}, {"DBInstanceIdentifier": "atelier"})

    def database_changed(self, action: str) -> None:
        self.rds.add_response(f"{action}_db_instance", {}, {"DBInstanceIdentifier": "atelier"})


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> StubEnvironment:
    return StubEnvironment(monkeypatch)


@pytest.fixture
def aws(env: StubEnvironment) -> AwsResponses:
    return AwsResponses(env)


def start(env: StubEnvironment, timeout_s: int = 600) -> None:
    env.start_stop().start(env.stack.services, timeout_s)


def test_the_database_is_available_before_services_start(env: StubEnvironment, aws: AwsResponses) -> None:
    aws.service()
    aws.image("abc")
    aws.database("stopped")
    aws.database_changed("start")
    for status in ("starting", "configuring-enhanced-monitoring", "available"):
        aws.database(status)
    aws.scaled(1)
    aws.service(desired=1, state="IN_PROGRESS")
    aws.service(desired=1, state="IN_PROGRESS")
    aws.service(desired=1, running=1)
    start(env)
    env.assert_all_called()
    assert env.output.index("start the database") < env.output.index("start tracking") < env.output.index("tracking is healthy")


def test_start_waits_for_a_stopping_database_and_starts_it(env: StubEnvironment, aws: AwsResponses) -> None:
    aws.service()
    aws.image("abc")
    for status in ("stopping", "stopping", "stopped"):
        aws.database(status)
    aws.database_changed("start")
    for status in ("starting", "available"):
        aws.database(status)
    aws.scaled(1)
    aws.service(desired=1, running=1)
    aws.service(desired=1, running=1)
    start(env)
    env.assert_all_called()


def test_a_service_without_an_image_is_not_started(env: StubEnvironment, aws: AwsResponses) -> None:
    aws.service()
    aws.image("not-deployed-yet")
    with pytest.raises(
        NotReadyError, match="tracking has no image yet; run `python -m atelier_infra push tracking`, then `deploy"
    ):
        start(env)
    env.assert_all_called()


def test_a_database_that_never_becomes_available_is_reported_with_its_state(env: StubEnvironment, aws: AwsResponses) -> None:
    aws.service()
    aws.image("abc")
    for _ in range(5):
        aws.database("storage-full")
    with pytest.raises(NotReadyError, match=r"after 15 s waiting until the database is available .* it is storage-full"):
        start(env, 15)


def test_stop_stops_services_and_not_the_database(env: StubEnvironment, aws: AwsResponses) -> None:
    aws.scaled(0)
    aws.service(running=1)
    aws.service(running=0)
    env.start_stop().stop(env.stack.services, database=False, timeout_s=60)
    env.assert_all_called()
    assert "the database keeps running" in env.output


def test_tracking_stops_last(monkeypatch: pytest.MonkeyPatch) -> None:
    env = StubEnvironment(monkeypatch, stack(service(), service("infer", 8002)))
    aws = AwsResponses(env)
    aws.scaled(0, "infer")
    aws.scaled(0, "tracking")
    aws.service(name="tracking")
    aws.service(name="infer")
    env.start_stop().stop(env.stack.select([]), database=False, timeout_s=60)
    env.assert_all_called()


@pytest.mark.parametrize(
    ("statuses", "stops"),
    [(["available"], True), (["backing-up", "available"], True), (["stopped"], False), (["stopping"], False)],
)
def test_stop_with_the_database(env: StubEnvironment, aws: AwsResponses, statuses: list[str], stops: bool) -> None:
    aws.scaled(0)
    aws.service()
    for status in statuses:
        aws.database(status)
    if stops:
        aws.database_changed("stop")
    env.start_stop().stop(env.stack.services, database=True, timeout_s=60)
    env.assert_all_called()
    assert "starts a stopped database again after seven days" in env.output


def test_a_dry_run_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    env = StubEnvironment(monkeypatch, dry_run=True)
    aws = AwsResponses(env)
    aws.service()
    aws.image("abc")
    aws.database("stopped")
    start(env)
    env.assert_all_called()
    assert "would start the database" in env.output and "would start tracking" in env.output


def task(env: StubEnvironment, address: str | None, *, tasks: bool = True) -> None:
    ecs, ec2 = env.stub("ecs"), env.stub("ec2")
    ecs.add_response("list_tasks", {"taskArns": ["arn:1"] if tasks else []})
    if not tasks:
        return
    details = [{"name": "subnetId", "value": "subnet-1"}, {"name": "networkInterfaceId", "value": "eni-1"}]
    ecs.add_response("describe_tasks", {"tasks": [{"taskArn": "arn:1", "attachments": [{"type": "eni", "details": details}]}]})
    found = {"NetworkInterfaceId": "eni-1"} | ({"Association": {"PublicIp": address}} if address else {})
    ec2.add_response("describe_network_interfaces", {"NetworkInterfaces": [found]}, {"NetworkInterfaceIds": ["eni-1"]})


def test_url_is_the_public_address_of_the_task(env: StubEnvironment) -> None:
    task(env, "198.51.100.4")
    assert url(env.stack, service(), env.aws) == "http://198.51.100.4"
    task(env, "198.51.100.4")
    assert url(env.stack, service("infer", 8002), env.aws) == "http://198.51.100.4:8002"


@pytest.mark.parametrize("tasks", [True, False])
def test_url_needs_a_running_task(env: StubEnvironment, tasks: bool) -> None:
    task(env, None, tasks=tasks)
    with pytest.raises(
        NotReadyError,
        match=r"tracking has no public address because none of its tasks is running; run `.* start`",
    ):
        url(env.stack, service(), env.aws)


def test_url_with_a_domain_needs_no_task(env: StubEnvironment) -> None:
    assert (
        url(env.stack, service(name="tracking", port=80).model_copy(update={"name": "draw.example.org"}), env.aws)
        == "https://draw.example.org"
    )


def warnings(env: StubEnvironment) -> list[str]:
    return print_status(env.stack, env.deployer(), env.start_stop(), env.console)


def test_status_of_a_running_service(env: StubEnvironment, aws: AwsResponses) -> None:
    aws.service(desired=1, running=1)
    aws.image("abc")
    aws.image("abc")
    aws.image("not-deployed-yet", revision=1)
    aws.database("available")
    assert warnings(env) == []
    assert "running" in env.output and "abc" in env.output and "1 of 1" in env.output


def test_status_warns_of_settings_that_are_not_deployed(env: StubEnvironment, aws: AwsResponses) -> None:
    aws.service(desired=1, running=1)
    aws.image("abc")
    aws.image("abc")
    aws.image("not-deployed-yet", revision=1, memory="2048")
    aws.database("available")
    assert warnings(env) == ["tracking runs with settings from before the last `up`; apply them with `deploy --tag abc`"]


def test_status_warns_of_an_unused_database(env: StubEnvironment, aws: AwsResponses) -> None:
    aws.service(revision=1)
    aws.image("not-deployed-yet", revision=1)
    aws.database("available")
    [warning] = warnings(env)
    assert "the database is running but no service is" in warning
    assert "none: push, deploy" in env.output


def test_status_prints_when_a_stopped_database_restarts(env: StubEnvironment, aws: AwsResponses) -> None:
    aws.service()
    for _ in range(2):
        aws.image("abc")
    aws.image("abc", revision=1)
    aws.database("stopped", AutomaticRestartTime=datetime(2026, 3, 8, 9, 30, tzinfo=UTC))
    [warning] = warnings(env)
    assert "AWS starts the database again on 2026-03-08 at 09:30 UTC; then stop it again" in warning


def events(env: StubEnvironment, *messages: tuple[int, str]) -> None:
    log_events = [{"eventId": text, "timestamp": 1000 * number, "message": f"{text}\n"} for number, text in messages]
    env.stub("logs").add_response("filter_log_events", {"events": log_events})


def test_log_lines_are_sorted_by_time(env: StubEnvironment) -> None:
    events(env, (2, "second"), (1, "first"))
    assert [line[-6:].strip() for line in log_lines(service(), env.aws, "15m", follow=False)] == ["first", "second"]


def test_follow_prints_each_line_once(env: StubEnvironment) -> None:
    events(env, (1, "one"))
    events(env, (1, "one"), (2, "two"))
    events(env, (2, "two"), (3, "three"))
    shown = itertools.islice(log_lines(service(), env.aws, "15m", follow=True, sleep=lambda _: None), 3)
    assert [line.split()[-1] for line in shown] == ["one", "two", "three"]


def test_a_missing_log_group_is_reported(env: StubEnvironment) -> None:
    env.stub("logs").add_client_error(
        "filter_log_events", "ResourceNotFoundException", "The specified log group does not exist."
    )
    with pytest.raises(AwsError, match="The specified log group does not exist"):
        list(log_lines(service(), env.aws, "15m", follow=False))


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("15m", 900), ("3h", 10800), ("2d", 172800)])
def test_durations(text: str, expected: int) -> None:
    assert parse_duration_s(text) == expected


@pytest.mark.parametrize("text", ["", "15", "m", "-1m", "1w"])
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--since must be a number followed by s, m, h or d"):
        parse_duration_s(text)


def test_an_unknown_service_is_refused(env: StubEnvironment) -> None:
    with pytest.raises(InputError, match=r"services must be of this environment \(tracking\); received infer"):
        env.stack.select(["infer"])


def test_an_unfinished_up_is_reported() -> None:
    outputs = {"cluster": {"value": "atelier"}, "name": {"value": "atelier"}, "region": {"value": "eu-central-1"}}
    with pytest.raises(NotReadyError, match=r"`up` has not finished \(no output services, artifact_bucket\); run .* up` again"):
        read_stack(outputs)
    with pytest.raises(NotReadyError, match="the environment does not exist yet"):
        read_stack({})


def test_a_destroyed_environment_is_reported() -> None:
    with pytest.raises(NotReadyError, match="only the data of this environment is kept; run `python -m atelier_infra up`"):
        stack(service().model_copy(update={"running": False})).select([])
