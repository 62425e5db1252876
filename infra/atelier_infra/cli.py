"""The command-line interface: commands and their options."""

from __future__ import annotations

import argparse
from pathlib import Path

SERVICES = ("tracking", "registry-api", "infer")
INFRA_FOLDER = Path(__file__).resolve().parents[1]


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="python -m atelier_infra", description="Create, deploy, operate and destroy an Atelier environment on AWS."
    )
    root.add_argument("--folder", type=Path, default=INFRA_FOLDER, help="folder of the Terraform files (default: %(default)s)")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, description: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=description, description=description)
        subparser.add_argument("--dry-run", action="store_true", help="print what would be done and change nothing")
        return subparser

    _add_init_options(command("init", "write terraform.tfvars and the credentials; asks for required options that are missing"))
    command("plan", "show what `up` would change and the monthly cost")
    up = command("up", "create or update the environment; synchronize secrets between this machine and AWS")
    _add_yes(up)
    up.add_argument(
        "--empty-database", action="store_true", help="create an empty database, not one from the snapshot that `destroy` kept"
    )
    up.add_argument(
        "--overwrite-secrets",
        action="store_true",
        help="where the secrets on AWS and on this machine differ, keep this machine's",
    )
    push = command("push", "build images, tag them with the git revision, push them to ECR")
    _add_services(push)
    push.add_argument("--tag", help="tag instead of the git revision; required with uncommitted changes")
    deploy = command("deploy", "deploy a pushed image and wait until it is healthy; revert if it never is")
    _add_services(deploy)
    deploy.add_argument("--tag", help="tag instead of the git revision")
    _add_timeout(deploy, 900.0, "seconds to wait for each service")
    start = command("start", "start the database, wait for it, start the services")
    _add_services(start)
    _add_timeout(start, 1200.0, "seconds to wait for the database and for each service")
    stop = command("stop", "stop the services; data is kept")
    _add_services(stop)
    stop.add_argument("--database", action="store_true", help="also stop the database (AWS starts it again after seven days)")
    _add_timeout(stop, 600.0, "seconds to wait")
    _add_service(command("url", "print the current URL of a service"))
    upgrade = command(
        "upgrade", "take a snapshot, migrate the tables in a one-off task, deploy; prints the commands that roll it back"
    )
    upgrade.add_argument("--tag", help="tag instead of the git revision")
    _add_timeout(upgrade, 1800.0, "seconds to wait for each step")
    backup = command("backup", "take a snapshot of the database and copy all artifacts to the backup bucket")
    _add_timeout(backup, 3600.0, "seconds to wait for the snapshot")
    restore = command("restore", "replace database and artifacts by a backup, or the database alone by a snapshot")
    restore.add_argument("backup", metavar="NAME", help="as printed by `backup` or `upgrade`")
    _add_yes(restore)
    _add_timeout(restore, 600.0, "seconds to wait until the services have stopped")
    gc = command(
        "gc",
        "permanently remove what was deleted in MLflow and no registered version needs; without --yes only list it",
    )
    gc.add_argument("--yes", action="store_true", help="remove it")
    gc.add_argument(
        "--older-than-days", type=float, default=30.0, metavar="N", help="minimum days since deletion (default: %(default)g)"
    )
    _add_timeout(gc, 3600.0, "seconds to wait for the task")
    command("status", "show services, their revisions, and running resources that are not used")
    logs = command("logs", "print the log of a service")
    _add_service(logs)
    logs.add_argument("--since", default="15m", help="how far back: 90s, 15m, 3h, 2d (default: %(default)s)")
    logs.add_argument("--follow", action="store_true", help="print new lines until Ctrl-C")
    destroy = command("destroy", "remove what is billed by the hour; keep artifacts, a database snapshot, secrets and images")
    destroy.add_argument("--data", action="store_true", help="delete the data as well; nothing is kept but backups")
    _add_yes(destroy)
    return root


def _add_services(command: argparse.ArgumentParser) -> None:
    command.add_argument("services", nargs="*", choices=[*SERVICES, []], metavar="SERVICE", help="services (default: all)")


def _add_service(command: argparse.ArgumentParser) -> None:
    command.add_argument("service", nargs="?", default="tracking", choices=SERVICES, help="default: %(default)s")


def _add_yes(command: argparse.ArgumentParser) -> None:
    command.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def _add_timeout(command: argparse.ArgumentParser, default_s: float, description: str) -> None:
    command.add_argument("--timeout-s", type=float, default=default_s, help=f"{description} (default: %(default)g)")


def _add_init_options(init: argparse.ArgumentParser) -> None:
    init.add_argument("--region", help="AWS region, for example eu-central-1")
    init.add_argument(
        "--allow", action="append", metavar="CIDR", help="IPv4 range that may connect, for example 203.0.113.7/32; repeatable"
    )
    init.add_argument("--user", help="your user name; its password is generated and written to secrets/logins")
    init.add_argument("--name", default="atelier", help="prefix of all resource names (default: %(default)s)")
    init.add_argument(
        "--service", action="append", choices=SERVICES[1:], default=[], help="also run this service on AWS; repeatable"
    )
    init.add_argument(
        "--secrets",
        choices=("secrets-manager", "env-file"),
        default="secrets-manager",
        help="where tasks read secrets (default: %(default)s)",
    )
    init.add_argument("--vpc", help="existing VPC to use instead of creating one; requires the subnets")
    init.add_argument(
        "--public-subnet", action="append", metavar="ID", default=[], help="public subnet of the VPC; two for a load balancer"
    )
    init.add_argument(
        "--private-subnet",
        action="append",
        metavar="ID",
        default=[],
        help="private subnet of the VPC for the database; at least two",
    )
    init.add_argument("--domain", help="fixed domain name, served by a load balancer with TLS")
    init.add_argument("--zone-id", help="Route 53 zone of the domain; certificate and records are created in it")
    init.add_argument("--certificate-arn", help="ACM certificate to use instead of --zone-id")
    init.add_argument("--start", metavar="HH:MM", help="daily start time; requires --stop")
    init.add_argument("--stop", metavar="HH:MM", help="stop time, every day")
    init.add_argument("--days", default="MON-FRI", help="days on which to start (default: %(default)s)")
    init.add_argument(
        "--timezone", default="UTC", help="time zone of both times, for example Europe/Berlin (default: %(default)s)"
    )
    init.add_argument("--state-bucket", help="S3 bucket for Terraform's state, with locking; created if it does not exist")
    init.add_argument("--replace", action="store_true", help="overwrite terraform.tfvars; existing credentials are kept")
