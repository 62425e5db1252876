"""Documentation of settings, costs and commands against the code."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from atelier_infra.terraform import costs
from atelier_infra.terraform.costs import Item

from .conftest import INFRA

DOCS = INFRA.parent / "docs"
SETTINGS = (DOCS / "reference/infra/settings.md").read_text()
COSTS = (DOCS / "reference/infra/costs.md").read_text()
HOW_TO = (DOCS / "how-to/deploy-to-aws.md").read_text()


def test_every_variable_is_documented_with_its_default() -> None:
    variables = re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', (INFRA / "variables.tf").read_text(), re.MULTILINE | re.DOTALL)
    defaults = {name: re.search(r"^  default +(?:= )(.*)$", body, re.MULTILINE) for name, body in variables}
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", SETTINGS, re.MULTILINE))
    assert set(rows) == set(defaults)
    words = {None: "required", "null": ("none", "created", "–")}
    for name, default in defaults.items():
        value = default[1].strip('"') if default else None
        documented = rows[name].strip("`")
        assert documented in words.get(value, (value,)) or documented == value, name


def plan(services: list[str]) -> dict[str, Any]:
    sizes = json.loads((INFRA / "sizes.json").read_text())

    def resource(kind: str, **values: Any) -> dict[str, Any]:
        return {"mode": "managed", "type": kind, "values": values}

    resources = [resource("aws_db_instance", instance_class="db.t4g.micro", allocated_storage=20, multi_az=False)]
    for name in services:
        resources.append(
            resource(
                "aws_ecs_task_definition", family=f"atelier-{name}", cpu=sizes[name]["cpu"], memory=sizes[name]["memory_mib"]
            )
        )
        resources.append(resource("aws_secretsmanager_secret"))
    return {
        "planned_values": {
            "root_module": {"resources": [*resources, resource("aws_secretsmanager_secret"), resource("aws_lb")]}
        }
    }


@pytest.fixture(scope="module")
def cost_items() -> list[Item]:
    return costs.cost_items(plan(["tracking", "registry-api", "infer"]), costs.read_prices())


def test_the_table_of_costs_is_correct(cost_items: list[Item]) -> None:
    table = COSTS.split("<!-- costs")[1].split("<!-- end")[0]
    rows = re.findall(r"^\| (.*?) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", table, re.MULTILINE)
    lines = costs.cost_items(plan(["tracking"]), costs.read_prices())
    lines = [line for line in lines if line.name != "load balancer"]
    hours = (costs.HOURS_A_MONTH, costs.WORKING_HOURS, 0.0)
    expected = [(line.name, *(f"{line.monthly_usd(each):.2f}" for each in hours)) for line in lines]
    expected.append(("sum", *(f"{sum(line.monthly_usd(each) for line in lines):.2f}" for each in hours)))
    assert rows == expected


def test_the_prices_in_the_text_are_correct(cost_items: list[Item]) -> None:
    price = {item.name.split(":")[0]: f"{item.monthly_usd(costs.HOURS_A_MONTH):.2f}" for item in cost_items}
    text = COSTS
    assert f"A load balancer adds {price['load balancer']}" in text
    task, address = price["task atelier-registry-api"], price["public address of atelier-registry-api"]
    assert f"registry-api adds {task} for its task and {address} for its address" in text
    assert f"{price['task atelier-infer']} and {price['public address of atelier-infer']}" in " ".join(text.split())


def test_creating_an_environment_takes_at_most_ten_commands() -> None:
    block = HOW_TO.split("```sh\n")[1].split("```")[0]
    assert len(block.strip().splitlines()) <= 10


def test_every_command_is_documented() -> None:
    for name in (
        "init",
        "plan",
        "up",
        "push",
        "deploy",
        "start",
        "stop",
        "url",
        "status",
        "logs",
        "destroy",
        "upgrade",
        "backup",
        "restore",
        "gc",
    ):
        assert f"`{name}" in HOW_TO or f"atelier_infra {name}" in HOW_TO
