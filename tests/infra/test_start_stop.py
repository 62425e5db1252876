"""`start`, `stop`, `url`, `status` and `logs`, each against what AWS may say."""

import itertools
from datetime import UTC, datetime

import pytest
from atelier_infra.commands.logs import lines, seconds
from atelier_infra.commands.status import print_status
from atelier_infra.commands.url import url
from atelier_infra.environment.stack import read_stack
from atelier_infra.errors import AnswerError, AwsError, NotReadyError

from .stubs import ARN, REPOSITORY, Scene, service, stack


class Aws:
    """What AWS answers, in the order in which it is asked."""

    def __init__(self, scene):
        self.ecs, self.rds = scene.stub("ecs"), scene.stub("rds")

    def service(self, *, desired=0, running=0, revision=2, state="COMPLETED", name="tracking"):
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

    def image(self, tag, *, revision=2, memory="1024"):
        container = {"name": "tracking", "image": f"{REPOSITORY}:{tag}"}
        found = {"taskDefinitionArn": f"{ARN}{revision}", "memory": memory, "containerDefinitions": [container]}
        self.ecs.add_response(
            "describe_task_definition", {"taskDefinition": found}, {"taskDefinition": f"{ARN}{revision}", "include": ["TAGS"]}
        )

    def scaled(self, count, name="tracking"):
        self.ecs.add_response("update_service", {}, {"cluster": "atelier", "service": name, "desiredCount": count})

    def database(self, status, **more):
        instance = {"DBInstanceIdentifier": "atelier", "DBInstanceStatus": status, "EngineVersion": "17.6", **more}
        self.rds.add_response("describe_db_instances", {"DBInstances": [instance]}, {"DBInstanceIdentifier": "atelier"})

    def database_told(self, what):
        self.rds.add_response(f"{what}_db_instance", {}, {"DBInstanceIdentifier": "atelier"})


@pytest.fixture
def scene(monkeypatch):
    return Scene(monkeypatch)


@pytest.fixture
def aws(scene):
    return Aws(scene)


def start(scene, timeout_s=600):
    scene.switch().start(scene.stack.services, timeout_s)


def test_the_database_is_there_before_the_services_start(scene, aws):
    aws.service()
    aws.image("abc")
    aws.database("stopped")
    aws.database_told("start")
    for status in ("starting", "configuring-enhanced-monitoring", "available"):
        aws.database(status)
    aws.scaled(1)
    aws.service(desired=1, state="IN_PROGRESS")
    aws.service(desired=1, state="IN_PROGRESS")
    aws.service(desired=1, running=1)
    start(scene)
    scene.all_said()
    assert scene.text.index("start the database") < scene.text.index("start tracking") < scene.text.index("tracking is healthy")


def test_a_database_that_is_stopping_is_waited_for_and_started(scene, aws):
    aws.service()
    aws.image("abc")
    for status in ("stopping", "stopping", "stopped"):
        aws.database(status)
    aws.database_told("start")
    for status in ("starting", "available"):
        aws.database(status)
    aws.scaled(1)
    aws.service(desired=1, running=1)
    aws.service(desired=1, running=1)
    start(scene)
    scene.all_said()


def test_a_service_without_an_image_is_not_started(scene, aws):
    aws.service()
    aws.image("not-deployed-yet")
    with pytest.raises(
        NotReadyError, match="tracking has no image yet; run `python -m atelier_infra push tracking`, then `deploy"
    ):
        start(scene)
    scene.all_said()


def test_a_database_that_does_not_come_is_told_with_its_state(scene, aws):
    aws.service()
    aws.image("abc")
    for _ in range(5):
        aws.database("storage-full")
    with pytest.raises(NotReadyError, match=r"after 15 s of waiting until the database is available .* it is storage-full"):
        start(scene, 15)


def test_stop_ends_the_services_and_leaves_the_database(scene, aws):
    aws.scaled(0)
    aws.service(running=1)
    aws.service(running=0)
    scene.switch().stop(scene.stack.services, database=False, timeout_s=60)
    scene.all_said()
    assert "the database goes on" in scene.text


def test_tracking_stops_last(monkeypatch):
    scene = Scene(monkeypatch, stack(service(), service("infer", 8002)))
    aws = Aws(scene)
    aws.scaled(0, "infer")
    aws.scaled(0, "tracking")
    aws.service(name="tracking")
    aws.service(name="infer")
    scene.switch().stop(scene.stack.chosen([]), database=False, timeout_s=60)
    scene.all_said()


@pytest.mark.parametrize(
    ("statuses", "told"),
    [(["available"], True), (["backing-up", "available"], True), (["stopped"], False), (["stopping"], False)],
)
def test_stop_with_the_database(scene, aws, statuses, told):
    aws.scaled(0)
    aws.service()
    for status in statuses:
        aws.database(status)
    if told:
        aws.database_told("stop")
    scene.switch().stop(scene.stack.services, database=True, timeout_s=60)
    scene.all_said()
    assert "starts a stopped database again after seven days" in scene.text


def test_a_dry_run_starts_nothing(monkeypatch):
    scene = Scene(monkeypatch, dry_run=True)
    aws = Aws(scene)
    aws.service()
    aws.image("abc")
    aws.database("stopped")
    start(scene)
    scene.all_said()
    assert "would start the database" in scene.text and "would start tracking" in scene.text


def task(scene, address, *, tasks=True):
    ecs, ec2 = scene.stub("ecs"), scene.stub("ec2")
    ecs.add_response("list_tasks", {"taskArns": ["arn:1"] if tasks else []})
    if not tasks:
        return
    details = [{"name": "subnetId", "value": "subnet-1"}, {"name": "networkInterfaceId", "value": "eni-1"}]
    ecs.add_response("describe_tasks", {"tasks": [{"taskArn": "arn:1", "attachments": [{"type": "eni", "details": details}]}]})
    found = {"NetworkInterfaceId": "eni-1"} | ({"Association": {"PublicIp": address}} if address else {})
    ec2.add_response("describe_network_interfaces", {"NetworkInterfaces": [found]}, {"NetworkInterfaceIds": ["eni-1"]})


def test_the_address_of_a_task(scene):
    task(scene, "198.51.100.4")
    assert url(scene.stack, service(), scene.aws) == "http://198.51.100.4"
    task(scene, "198.51.100.4")
    assert url(scene.stack, service("infer", 8002), scene.aws) == "http://198.51.100.4:8002"


@pytest.mark.parametrize("tasks", [True, False])
def test_no_address_without_a_running_task(scene, tasks):
    task(scene, None, tasks=tasks)
    with pytest.raises(
        NotReadyError, match="tracking has no public address, because no task of it runs; run `python -m atelier_infra start`"
    ):
        url(scene.stack, service(), scene.aws)


def test_a_fixed_name_needs_no_task(scene):
    assert (
        url(scene.stack, service(name="tracking", port=80).model_copy(update={"name": "draw.example.org"}), scene.aws)
        == "https://draw.example.org"
    )


def warnings(scene):
    return print_status(scene.stack, scene.deployer(), scene.switch(), scene.console)


def test_status_of_what_runs(scene, aws):
    aws.service(desired=1, running=1)
    aws.image("abc")
    aws.image("abc")
    aws.image("not-deployed-yet", revision=1)
    aws.database("available")
    assert warnings(scene) == []
    assert "running" in scene.text and "abc" in scene.text and "1 of 1" in scene.text


def test_status_tells_of_settings_that_were_not_rolled_out(scene, aws):
    aws.service(desired=1, running=1)
    aws.image("abc")
    aws.image("abc")
    aws.image("not-deployed-yet", revision=1, memory="2048")
    aws.database("available")
    assert warnings(scene) == ["tracking runs with settings from before the last `up`; `deploy --tag abc` brings the new ones"]


def test_status_warns_of_a_database_that_nobody_uses(scene, aws):
    aws.service(revision=1)
    aws.image("not-deployed-yet", revision=1)
    aws.database("available")
    [warning] = warnings(scene)
    assert "the database runs and no service does" in warning
    assert "none yet: push, deploy" in scene.text


def test_status_tells_when_a_stopped_database_will_start_again(scene, aws):
    aws.service()
    for _ in range(2):
        aws.image("abc")
    aws.image("abc", revision=1)
    aws.database("stopped", AutomaticRestartTime=datetime(2026, 3, 8, 9, 30, tzinfo=UTC))
    [warning] = warnings(scene)
    assert "AWS starts the database again on 2026-03-08 at 09:30 UTC; stop it again then" in warning


def events(scene, *messages):
    found = [{"eventId": text, "timestamp": 1000 * number, "message": f"{text}\n"} for number, text in messages]
    scene.stub("logs").add_response("filter_log_events", {"events": found})


def test_lines_come_in_their_order(scene):
    events(scene, (2, "second"), (1, "first"))
    assert [line[-6:].strip() for line in lines(service(), scene.aws, "15m", follow=False)] == ["first", "second"]


def test_following_shows_each_line_once(scene):
    events(scene, (1, "one"))
    events(scene, (1, "one"), (2, "two"))
    events(scene, (2, "two"), (3, "three"))
    shown = itertools.islice(lines(service(), scene.aws, "15m", follow=True, pause=lambda _: None), 3)
    assert [line.split()[-1] for line in shown] == ["one", "two", "three"]


def test_a_log_that_is_not_there(scene):
    scene.stub("logs").add_client_error(
        "filter_log_events", "ResourceNotFoundException", "The specified log group does not exist."
    )
    with pytest.raises(AwsError, match="The specified log group does not exist"):
        list(lines(service(), scene.aws, "15m", follow=False))


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("15m", 900), ("3h", 10800), ("2d", 172800)])
def test_lengths_of_time(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "15", "m", "-1m", "1w"])
def test_a_length_of_time_that_is_none(text):
    with pytest.raises(AnswerError, match="--since must be a number with s, m, h or d"):
        seconds(text)


def test_a_service_that_does_not_run_here(scene):
    with pytest.raises(AnswerError, match="infer: no such service here; there are tracking"):
        scene.stack.chosen(["infer"])


def test_an_apply_that_has_not_finished():
    outputs = {"cluster": {"value": "atelier"}, "name": {"value": "atelier"}, "region": {"value": "eu-central-1"}}
    with pytest.raises(
        NotReadyError, match=r"`up` has not finished \(services, artifact_bucket not known yet\); run .* up` again"
    ):
        read_stack(outputs)
    with pytest.raises(NotReadyError, match="nothing is there yet"):
        read_stack({})


def test_only_the_data_is_left():
    with pytest.raises(NotReadyError, match="only the data of this environment is left; run `python -m atelier_infra up`"):
        stack(service().model_copy(update={"running": False})).chosen([])
