"""Stubbed AWS clients: botocore's Stubber returns the responses of a test and validates each call against the service model."""

from __future__ import annotations

import io
from typing import Any

import boto3
from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws
from atelier_infra.aws.poller import Poller
from atelier_infra.commands.deploy import Deployer
from atelier_infra.commands.start_stop import StartStop
from atelier_infra.environment.stack import Service, Stack
from botocore.stub import Stubber
from rich.console import Console

REGION = "eu-central-1"
REPOSITORY = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/atelier/tracking"
ARN = "arn:aws:ecs:eu-central-1:123456789012:task-definition/atelier-tracking:"


def service(name: str = "tracking", port: int = 80, **changed: Any) -> Service:
    values = {
        "running": True,
        "service": name,
        "template_arn": f"{ARN}1",
        "repository": REPOSITORY.replace("tracking", name),
        "log_group": f"/atelier/{name}",
        "port": port,
        "name": None,
        "secret": f"atelier/{name}",
        "secret_names": [],
        "environment": [],
        "from_manager": [],
    }
    return Service(**values | changed)


def stack(*services: Service, **changed: Any) -> Stack:
    values = {
        "name": "atelier",
        "region": REGION,
        "cluster": "atelier",
        "services": {each.service: each for each in services or (service(),)},
        "database": "atelier",
        "artifact_bucket": "atelier-artifacts",
        "config_bucket": None,
        "balancer": None,
        "schedule": None,
    }
    return Stack(**values | changed)


class StubEnvironment:
    """The parts of a command, with stubbed clients and a clock that does not wait."""

    def __init__(self, monkeypatch: Any, stack_: Stack | None = None, *, dry_run: bool = False) -> None:
        for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_ENDPOINT_URL": ""}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        self.aws = Aws(REGION)
        self.stubs: dict[Any, Any] = {}
        self._output = io.StringIO()
        self.console = Console(file=self._output, width=200)
        self.seconds = 0.0
        self.stack = stack_ or stack()
        self.changes = ChangeRunner(self.console, REGION, dry_run)
        self.poller = Poller(self.console, REGION, sleep=self._sleep, now=lambda: self.seconds)

    def _sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def stub(self, name: str) -> Stubber:
        if name not in self.stubs:
            client = boto3.client(name, region_name=REGION)
            self.stubs[name] = Stubber(client)
            self.stubs[name].activate()
            self.aws._clients[name] = client
        return self.stubs[name]

    @property
    def output(self) -> str:
        return self._output.getvalue()

    def deployer(self) -> Deployer:
        self.stub("ecs")
        return Deployer(self.stack, self.aws, self.changes, self.poller)

    def start_stop(self) -> StartStop:
        self.stub("rds")
        return StartStop(self.stack, self.aws, self.changes, self.poller, self.deployer())

    def assert_all_called(self) -> None:
        for stub in self.stubs.values():
            stub.assert_no_pending_responses()
