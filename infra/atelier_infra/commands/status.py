"""`status`: what runs, in which revision, and what costs money without being used."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from atelier_infra.commands.deploy import PLACEHOLDER, Deployer
from atelier_infra.commands.start_stop import StartStop
from atelier_infra.environment.stack import Stack


def print_status(stack: Stack, deployer: Deployer, switch: StartStop, console: Console) -> list[str]:
    """Prints the table.

    Returns:
        Warnings, which are printed below it.
    """
    table = Table(title=f"{stack.name} in {stack.region}")
    for column in ("service", "state", "tasks", "revision"):
        table.add_column(column)
    warnings, running = [], 0
    for name, service in stack.chosen([]).items():
        described = deployer.describe(service)
        running += described["desiredCount"]
        image = deployer.image(described["taskDefinition"])
        revision = "none yet: push, deploy" if image.endswith(PLACEHOLDER) else image.rpartition(":")[2]
        table.add_row(
            name, _configure_state(described), f"{described['runningCount']} of {described['desiredCount']}", revision
        )
        if not image.endswith(PLACEHOLDER) and not _follows(deployer, described["taskDefinition"], str(service.template_arn)):
            warnings.append(
                f"{name} runs with settings from before the last `up`; `deploy --tag {revision}` brings the new ones"
            )
    database = switch.database()
    table.add_row("database", database["DBInstanceStatus"], "", f"PostgreSQL {database['EngineVersion']}")
    console.print(table)
    warnings += _of_database(database, running, scheduled=stack.schedule is not None)
    for each in warnings:
        console.print(f"[yellow]warning[/] {each}", highlight=False, soft_wrap=True)
    return warnings


def _configure_state(described: dict[str, Any]) -> str:
    if described["desiredCount"] == 0:
        return "stopped" if described["runningCount"] == 0 else "stopping"
    primary: dict[str, Any] = next((each for each in described["deployments"] if each["status"] == "PRIMARY"), {})
    if primary.get("rolloutState") == "FAILED":
        return "failed"
    return (
        "running"
        if described["runningCount"] >= described["desiredCount"] and primary.get("rolloutState") != "IN_PROGRESS"
        else "starting"
    )


def _follows(deployer: Deployer, running: str, template: str) -> bool:
    """Whether what runs is the template but for the image."""

    def settings(arn: str) -> tuple[Any, ...]:
        found = deployer.definition(arn)
        container = {key: value for key, value in found["containerDefinitions"][0].items() if key != "image"}
        return container, found.get("cpu"), found.get("memory"), found.get("taskRoleArn"), found.get("executionRoleArn")

    return settings(running) == settings(template)


def _of_database(database: dict[str, Any], running: int, *, scheduled: bool) -> list[str]:
    status = database["DBInstanceStatus"]
    if status == "stopped":
        when = database.get("AutomaticRestartTime")
        at = f"on {when:%Y-%m-%d at %H:%M} UTC" if when else "seven days after it was stopped"
        again = "the schedule stops it again in the evening" if scheduled else "stop it again then: `stop --database`"
        return [f"AWS starts the database again {at}; {again}"]
    if status == "available" and running == 0:
        return [
            "the database runs and no service does: `stop --database` saves its price (after seven days AWS starts it again)"
        ]
    return []
