"""terraform.tfvars: checks answers, formats the file, and reads the values that are needed before Terraform runs."""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import boto3

from atelier_infra.errors import InputError


def check(answers: Namespace) -> None:
    """Checks answers that Terraform would refuse minutes later or not at all.

    Raises:
        InputError: the message lists all problems.
    """
    problems = []
    regions = boto3.Session().get_available_regions("ecs")
    if answers.region not in regions:
        similar = ", ".join(difflib.get_close_matches(answers.region, regions, 3, 0.4)) or "eu-central-1, us-east-1"
        problems.append(f"--region must be an AWS region, such as {similar}; received {answers.region!r}")
    for index, cidr in enumerate(answers.allow):
        try:
            answers.allow[index] = str(ipaddress.IPv4Network(cidr))
        except ValueError as error:
            problems.append(f"--allow must be an IPv4 address or range, such as 203.0.113.7/32; received {cidr!r} ({error})")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", answers.user) or answers.user in (
        "trainer",
        "registry-api",
        "infer",
    ):
        problems.append(f"--user must be letters, digits and . _ @ + -, and not a service name; received {answers.user!r}")
    if not re.fullmatch(r"[a-z][a-z0-9-]{1,17}[a-z0-9]", answers.name):
        problems.append(
            f"--name must be 3 to 19 lower-case letters, digits and hyphens, starting with a letter; received {answers.name!r}"
        )
    if bool(answers.start) != bool(answers.stop):
        problems.append(f"--start and --stop must be given together; received only {answers.start or answers.stop}")
    if bool(answers.domain) != bool(answers.zone_id or answers.certificate_arn) or (
        answers.zone_id and answers.certificate_arn
    ):
        problems.append("--domain needs exactly one of --zone-id and --certificate-arn, and they need --domain")
    subnets = answers.public_subnet or answers.private_subnet
    if (answers.vpc or subnets) and not (answers.vpc and answers.public_subnet and len(answers.private_subnet) >= 2):
        problems.append(
            "--vpc needs at least one --public-subnet and two --private-subnet in different zones, and they need --vpc"
        )
    if problems:
        raise InputError("\n".join(problems))


def format_tfvars(answers: Namespace) -> str:
    values: dict[str, Any] = {
        "name": answers.name,
        "region": answers.region,
        "services": ["tracking", *answers.service],
        "secrets": answers.secrets,
        "allowed_cidrs": answers.allow,
    }
    if answers.vpc:
        values["network"] = {
            "vpc_id": answers.vpc,
            "public_subnet_ids": answers.public_subnet,
            "private_subnet_ids": answers.private_subnet,
        }
    if answers.domain:
        certificate = {"zone_id": answers.zone_id} if answers.zone_id else {"certificate_arn": answers.certificate_arn}
        values["load_balancer"] = {"domain": answers.domain, **certificate}
    if answers.start:
        values["schedule"] = {"start": answers.start, "stop": answers.stop, "days": answers.days, "timezone": answers.timezone}
    lines = ["# Written by `python -m atelier_infra init`; edit as needed. variables.tf describes all variables."]
    # JSON values are HCL expressions, except for ${ and %{ in strings
    return (
        "\n".join([*lines, *(f"{name} = {json.dumps(value)}" for name, value in values.items())])
        .replace("${", "$${")
        .replace("%{", "%%{")
        + "\n"
    )


def read_string(folder: Path, name: str, default: str | None = None) -> str | None:
    """A string variable of terraform.tfvars.

    Raises:
        InputError: the file does not exist.
    """
    path = folder / "terraform.tfvars"
    if not path.exists():
        raise InputError(f"{path} does not exist yet; run `python -m atelier_infra init`")
    match = re.search(rf'^\s*{name}\s*=\s*"([^"]*)"', path.read_text(), re.MULTILINE)
    return match[1] if match else default


def read_services(folder: Path) -> list[str]:
    match = re.search(r"^\s*services\s*=\s*\[([^\]]*)\]", (folder / "terraform.tfvars").read_text(), re.MULTILINE)
    return re.findall(r'"([^"]+)"', match[1]) if match else ["tracking"]
