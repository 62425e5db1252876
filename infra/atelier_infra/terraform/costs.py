"""What a plan costs a month, by the item: running all the time, running as planned, and stopped.

Source: list prices in prices.json. Traffic, requests and storage that nobody can know before are named, not guessed.
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
"""What `start` in the morning and `stop --database` in the evening come to."""

DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


@dataclass(frozen=True)
class Item:
    """One line of the estimate, in USD.

    Attributes:
        name: what it is.
        hour: price of an hour in which it runs.
        month: price of a month, running or not.
    """

    name: str
    hour: float = 0.0
    month: float = 0.0

    def monthly_usd(self, hours: float) -> float:
        """Price of a month in which it runs so many hours."""
        return self.hour * hours + self.month


def cost_items(plan: dict[str, Any], prices: dict[str, Any]) -> list[Item]:
    """Reads a plan.

    Args:
        plan: `terraform show -json` of it.
        prices: prices.json.

    Returns:
        Items with a price; things that cost nothing by themselves are left out.
    """
    found = list(_resources(plan["planned_values"]["root_module"]))
    result: list[Item] = []
    secrets = 0
    for kind, values in found:
        if kind == "aws_ecs_task_definition":
            cpu, memory_gib = int(values["cpu"]) / 1024, int(values["memory"]) / 1024
            hour = cpu * prices["fargate_vcpu_hour"] + memory_gib * prices["fargate_gib_hour"]
            result.append(Item(f"task {values['family']}: {cpu:g} vCPU, {memory_gib:g} GiB", hour))
            result.append(Item(f"public address of {values['family']}", prices["public_ipv4_hour"]))
        elif kind == "aws_db_instance":
            hour = prices["database_hour"].get(values["instance_class"])
            times = 2 if values["multi_az"] else 1
            name = f"database {values['instance_class']}" + (", two zones" if times == 2 else "")
            result.append(Item(name if hour else f"{name}: price not in prices.json", (hour or 0) * times))
            gib = values["allocated_storage"]
            result.append(Item(f"storage, {gib} GiB", month=gib * prices["database_storage_gib_month"] * times))
        elif kind == "aws_lb":
            # it has an address in each of its zones, and cannot be stopped
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
    """Hours a month that a schedule lets things run; None without one, or where its days are not plain."""
    if not schedule:
        return None
    start, stop = (int(schedule[each][:2]) + int(schedule[each][3:]) / 60 for each in ("start", "stop"))
    days = _days(schedule.get("days") or "MON-FRI")
    return None if days is None else ((stop - start) % 24) * days * WEEKS_A_MONTH


def print_costs(plan: dict[str, Any], prices: dict[str, Any], console: Console) -> float:
    """Prints the estimate, and returns the price of a month of running all the time, in USD."""
    lines = cost_items(plan, prices)
    schedule = plan.get("variables", {}).get("schedule", {}).get("value")
    hours = scheduled_hours(schedule)
    some, title = (hours, "by the schedule") if hours is not None else (WORKING_HOURS, "8 h on working days")
    table = Table(title=f"USD a month, list prices of {prices['region']} ({prices['as_of']})", show_footer=True)
    table.add_column("item", footer="sum")
    columns = (("always on", HOURS_A_MONTH), (title, some), ("stopped", 0.0))
    for heading, each in columns:
        table.add_column(heading, justify="right", footer=f"{sum(line.monthly_usd(each) for line in lines):.2f}")
    for line in lines:
        table.add_row(line.name, *(f"{line.monthly_usd(each):.2f}" for _, each in columns))
    console.print(table)
    console.print(
        f"on top, by use, per GiB: artifacts {prices['artifacts_gib_month']:.3f}, images {prices['images_gib_month']:.2f}, "
        f"logs {prices['logs_gib']:.2f}, traffic out; other regions differ by up to a quarter",
        highlight=False,
    )
    return sum(line.monthly_usd(HOURS_A_MONTH) for line in lines)


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
    """Days a week of a cron field such as MON-FRI, MON,WED or *."""
    if text in ("*", "?"):
        return 7
    count = 0
    for part in text.upper().split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last and last not in DAYS):
            return None
        count += (DAYS.index(last) - DAYS.index(first)) % 7 + 1 if last else 1
    return count
