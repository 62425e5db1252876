"""Estimates the monthly cost of a plan by item: always on, on by schedule or in working hours, and stopped.

Source: list prices in prices.json. Traffic, requests and storage of artifacts depend on use: their rates are printed, not
estimated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HOURS_A_MONTH = 730.0
WEEKS_A_MONTH = HOURS_A_MONTH / 24 / 7
WORKING_HOURS = 8 * 5 * WEEKS_A_MONTH
"""Hours a month with `start` every morning and `stop --database` every evening of working days."""

DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


@dataclass(frozen=True)
class Item:
    """One line of the estimate, in USD.

    Attributes:
        name: label.
        hour: price of an hour while it runs.
        month: price of a month, running or not.
    """

    name: str
    hour: float = 0.0
    month: float = 0.0

    def monthly_usd(self, hours: float) -> float:
        """Price of a month with this many hours of use."""
        return self.hour * hours + self.month


def cost_items(plan: dict[str, Any], prices: dict[str, Any]) -> list[Item]:
    """Items of a plan that have a price.

    Args:
        plan: `terraform show -json` of the plan.
        prices: prices.json.
    """
    result: list[Item] = []
    secrets = 0
    for kind, values in _resources(plan["planned_values"]["root_module"]):
        if kind == "aws_ecs_task_definition":
            cpu, memory_gib = int(values["cpu"]) / 1024, int(values["memory"]) / 1024
            hour = cpu * prices["fargate_vcpu_hour"] + memory_gib * prices["fargate_gib_hour"]
            result.append(Item(f"task {values['family']}: {cpu:g} vCPU, {memory_gib:g} GiB", hour))
            result.append(Item(f"public address of {values['family']}", prices["public_ipv4_hour"]))
        elif kind == "aws_db_instance":
            hour = prices["database_hour"].get(values["instance_class"])
            zones = 2 if values["multi_az"] else 1
            name = f"database {values['instance_class']}" + (", two zones" if zones == 2 else "")
            result.append(Item(name if hour else f"{name}: price not in prices.json", (hour or 0) * zones))
            gib = values["allocated_storage"]
            result.append(Item(f"storage, {gib} GiB", month=gib * prices["database_storage_gib_month"] * zones))
        elif kind == "aws_lb":
            # has a public address in each of its two zones, and cannot be stopped
            result.append(
                Item("load balancer", month=(prices["balancer_hour"] + 2 * prices["public_ipv4_hour"]) * HOURS_A_MONTH)
            )
        elif kind == "aws_secretsmanager_secret":
            secrets += 1
        elif kind == "aws_service_discovery_private_dns_namespace":
            result.append(Item("private DNS zone", month=prices["zone_month"]))
    if secrets:
        result.append(Item(f"secrets, {secrets}", month=secrets * prices["secret_month"]))
    return result


def scheduled_hours(schedule: dict[str, Any] | None) -> float | None:
    """Hours a month between start and stop; None without a schedule, or if its days are not a list of weekdays."""
    if not schedule:
        return None
    start, stop = (int(schedule[time][:2]) + int(schedule[time][3:]) / 60 for time in ("start", "stop"))
    days = _days(schedule.get("days") or "MON-FRI")
    return None if days is None else ((stop - start) % 24) * days * WEEKS_A_MONTH


def print_costs(plan: dict[str, Any], prices: dict[str, Any], console: Console) -> float:
    """Prints the estimate, and returns the price of a month always on, in USD."""
    items = cost_items(plan, prices)
    schedule = plan.get("variables", {}).get("schedule", {}).get("value")
    hours = scheduled_hours(schedule)
    part_time = ("by schedule", hours) if hours is not None else ("8 h on working days", WORKING_HOURS)
    table = Table(title=f"USD a month, list prices of {prices['region']} ({prices['as_of']})", show_footer=True)
    table.add_column("item", footer="sum")
    columns = (("always on", HOURS_A_MONTH), part_time, ("stopped", 0.0))
    for heading, hours in columns:
        table.add_column(heading, justify="right", footer=f"{sum(item.monthly_usd(hours) for item in items):.2f}")
    for item in items:
        table.add_row(item.name, *(f"{item.monthly_usd(hours):.2f}" for _, hours in columns))
    console.print(table)
    console.print(
        f"plus use, per GiB: artifacts {prices['artifacts_gib_month']:.3f}, images {prices['images_gib_month']:.2f}, "
        f"logs {prices['logs_gib']:.2f}, outbound traffic; other regions differ by up to 25 %",
        highlight=False,
    )
    return sum(item.monthly_usd(HOURS_A_MONTH) for item in items)


def read_prices() -> dict[str, Any]:
    prices: dict[str, Any] = json.loads((Path(__file__).parent / "prices.json").read_text())
    return prices


def _resources(module: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for resource in module.get("resources", []):
        if resource["mode"] == "managed":
            yield resource["type"], resource["values"]
    for child in module.get("child_modules", []):
        yield from _resources(child)


def _days(text: str) -> int | None:
    """Days a week of a cron field such as MON-FRI, MON,WED or *; None for other forms."""
    if text in ("*", "?"):
        return 7
    count = 0
    for part in text.upper().split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last and last not in DAYS):
            return None
        count += (DAYS.index(last) - DAYS.index(first)) % 7 + 1 if last else 1
    return count
