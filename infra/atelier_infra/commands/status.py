"""`status`: services and their revisions, and warnings about resources that cost money and are not used."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from atelier_infra.commands.deploy import PLACEHOLDER, Deployer, primary_deployment
from atelier_infra.commands.start_stop import StartStop
from atelier_infra.environment.stack import Service, Stack


def print_status(stack: Stack, deployer: Deployer, start_stop: StartStop, console: Console) -> list[str]:
    """Prints the table and below it the warnings, which it returns."""
    table = Table(title=f"{stack.name} in {stack.region}")
    for column in ("service", "state", "tasks", "revision"):
        table.add_column(column)
    warnings, running = [], 0
    for name, service in stack.select([]).items():
        description = deployer.describe(service)
        running += description["desiredCount"]
        image = deployer.image(description["taskDefinition"])
        revision = "none: push, deploy" if image.endswith(PLACEHOLDER) else image.rpartition(":")[2]
        tasks = f"{description['runningCount']} of {description['desiredCount']}"
        table.add_row(name, _service_state(description), tasks, revision)
        if not image.endswith(PLACEHOLDER) and not _matches_template(deployer, service, description):
            warnings.append(f"{name} runs with settings from before the last `up`; apply them with `deploy --tag {revision}`")
    database = start_stop.describe_database()
    table.add_row("database", database["DBInstanceStatus"], "", f"PostgreSQL {database['EngineVersion']}")
    console.print(table)
    warnings += _database_warnings(database, running, scheduled=stack.schedule is not None)
    for warning in warnings:
        console.print(f"[yellow]warning[/] {warning}", highlight=False, soft_wrap=True)
    return warnings


def _service_state(description: dict[str, Any]) -> str:
    if description["desiredCount"] == 0:
        return "stopped" if description["runningCount"] == 0 else "stopping"
    rollout_state = primary_deployment(description).get("rolloutState")
    if rollout_state == "FAILED":
        return "failed"
    complete = description["runningCount"] >= description["desiredCount"] and rollout_state != "IN_PROGRESS"
    return "running" if complete else "starting"


def _matches_template(deployer: Deployer, service: Service, description: dict[str, Any]) -> bool:
    """Whether the running task definition equals Terraform's template, apart from the image."""

    def settings(arn: str) -> tuple[Any, ...]:
        definition = deployer.definition(arn)
        container = {key: value for key, value in definition["containerDefinitions"][0].items() if key != "image"}
        keys = ("cpu", "memory", "taskRoleArn", "executionRoleArn")
        return container, *(definition.get(key) for key in keys)

    return settings(description["taskDefinition"]) == settings(str(service.template_arn))


def _database_warnings(database: dict[str, Any], running: int, *, scheduled: bool) -> list[str]:
    status = database["DBInstanceStatus"]
    if status == "stopped":
        restart_time = database.get("AutomaticRestartTime")
        when = f"on {restart_time:%Y-%m-%d at %H:%M} UTC" if restart_time else "seven days after it was stopped"
        remedy = "the schedule stops it that evening" if scheduled else "then stop it again with `stop --database`"
        return [f"AWS starts the database again {when}; {remedy}"]
    if status == "available" and running == 0:
        return ["the database is running but no service is; `stop --database` stops it for up to seven days"]
    return []
