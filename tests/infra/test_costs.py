"""The cost estimate: prices, hours of a schedule, sums."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from atelier_infra.terraform import costs
from rich.console import Console

PRICES = costs.read_prices()


def resource(kind: str, **values: Any) -> dict[str, Any]:
    return {"mode": "managed", "type": kind, "values": values}


def plan(*resources: dict[str, Any], children: Sequence[Any] = (), schedule: dict[str, str] | None = None) -> dict[str, Any]:
    root = {"resources": list(resources), "child_modules": [{"resources": list(children)}]}
    return {"planned_values": {"root_module": root}, "variables": {"schedule": {"value": schedule}}}


DATABASE = resource("aws_db_instance", instance_class="db.t4g.micro", allocated_storage=20, multi_az=False)
TASK = resource("aws_ecs_task_definition", family="atelier-tracking", cpu="256", memory="1024")


def test_a_task_is_billed_for_cpu_memory_and_address() -> None:
    task, address = costs.cost_items(plan(children=[TASK]), PRICES)
    assert task.hour == pytest.approx(0.25 * 0.04048 + 1 * 0.004445)
    assert (address.hour, address.month) == (0.005, 0.0)


def test_database_storage_is_billed_when_stopped_and_doubles_with_multi_az() -> None:
    hour, storage = costs.cost_items(plan(DATABASE), PRICES)
    assert (hour.monthly_usd(0), storage.monthly_usd(0)) == (0.0, pytest.approx(20 * 0.115))
    both = resource("aws_db_instance", instance_class="db.t4g.micro", allocated_storage=20, multi_az=True)
    assert sum(item.monthly_usd(730) for item in costs.cost_items(plan(both), PRICES)) == pytest.approx(
        2 * (hour.hour * 730 + storage.month)
    )


def test_an_instance_class_without_a_price_is_reported() -> None:
    huge = resource("aws_db_instance", instance_class="db.x9.huge", allocated_storage=20, multi_az=False)
    assert costs.cost_items(plan(huge), PRICES)[0].name == "database db.x9.huge: price not in prices.json"


def test_a_load_balancer_is_billed_when_everything_is_stopped() -> None:
    [balancer] = costs.cost_items(plan(resource("aws_lb")), PRICES)
    assert balancer.monthly_usd(0) == pytest.approx((0.0225 + 0.01) * 730)


@pytest.mark.parametrize(
    ("start", "stop", "days", "hours_a_week"),
    [
        ("08:00", "18:00", "MON-FRI", 50),
        ("08:30", "12:00", "MON,WED,FRI", 10.5),
        ("20:00", "02:00", "*", 42),
        ("08:00", "09:00", "FRI-MON", 4),
    ],
)
def test_hours_of_a_schedule(start: str, stop: str, days: str, hours_a_week: float) -> None:
    hours = costs.scheduled_hours({"start": start, "stop": stop, "days": days})
    assert hours == pytest.approx(hours_a_week * 730 / 168)


def test_hours_are_unknown_for_other_forms_of_days() -> None:
    assert costs.scheduled_hours({"start": "08:00", "stop": "18:00", "days": "2#1"}) is None
    assert costs.scheduled_hours(None) is None


def test_the_table_has_region_and_sum() -> None:
    console = Console(record=True, width=160, quiet=False, file=io.StringIO())
    total = costs.print_costs(
        plan(DATABASE, children=[TASK], schedule={"start": "08:00", "stop": "18:00", "days": "MON-FRI"}), PRICES, console
    )
    text = console.export_text()
    assert total == pytest.approx(730 * (0.016 + 0.25 * 0.04048 + 0.004445 + 0.005) + 2.3)
    assert f"{total:.2f}" in text
    assert "list prices of us-east-1" in text and "by schedule" in text
