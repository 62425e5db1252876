"""What can be typed."""

from __future__ import annotations

import argparse
from pathlib import Path

SERVICES = ("tracking", "registry-api", "infer")
HERE = Path(__file__).resolve().parents[1]


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="python -m atelier_infra", description="Atelier on AWS, from a clean account to a login page and back."
    )
    whole.add_argument("--folder", type=Path, default=HERE, help="folder of the Terraform files (default: %(default)s)")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=help_text, description=help_text)
        one.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
        return one

    _init(command("init", "write terraform.tfvars and the files with the logins; asks for what no flag gives"))
    command("plan", "show what `up` would change, and what it costs a month")
    up = command(
        "up", "make everything that terraform.tfvars asks for, and bring the logins to AWS, or take over those that are there"
    )
    up.add_argument("--yes", action="store_true", help="do not ask")
    up.add_argument("--empty-database", action="store_true", help="do not go on from the snapshot that `destroy` kept")
    up.add_argument(
        "--overwrite-secrets",
        action="store_true",
        help="replace the secrets at AWS by those of this machine, where both differ",
    )
    push = command("push", "build the images, tag them by git revision, push them to ECR")
    _chosen(push)
    push.add_argument("--tag", help="tag instead of the git revision; needed where files are not committed")
    deploy = command("deploy", "roll a pushed image out, wait until it is healthy, go back if it never is")
    _chosen(deploy)
    deploy.add_argument("--tag", help="tag instead of the git revision")
    deploy.add_argument("--timeout-s", type=float, default=900.0, help="seconds to wait for it (default: %(default)g)")
    start = command("start", "start the database, wait for it, start the services")
    _chosen(start)
    start.add_argument(
        "--timeout-s", type=float, default=1200.0, help="seconds to wait for each of the two (default: %(default)g)"
    )
    stop = command("stop", "stop the services; data stays")
    _chosen(stop)
    stop.add_argument("--database", action="store_true", help="stop the database, too (AWS starts it again after seven days)")
    stop.add_argument("--timeout-s", type=float, default=600.0, help="seconds to wait (default: %(default)g)")
    url = command("url", "print where a service answers now")
    url.add_argument("service", nargs="?", default="tracking", choices=SERVICES)
    upgrade = command("upgrade", "snapshot the database, migrate its tables by a task of their own, deploy; says the way back")
    upgrade.add_argument("--tag", help="tag instead of the git revision")
    upgrade.add_argument("--timeout-s", type=float, default=1800.0, help="seconds to wait for each step (default: %(default)g)")
    backup = command("backup", "snapshot the database and copy every artifact into a bucket of its own")
    backup.add_argument("--timeout-s", type=float, default=3600.0, help="seconds to wait for it (default: %(default)g)")
    restore = command("restore", "put a backup, or a snapshot of the database alone, in the place of what is there")
    restore.add_argument("backup", metavar="NAME", help="as `backup` or `upgrade` printed it")
    restore.add_argument("--yes", action="store_true", help="do not ask")
    restore.add_argument(
        "--timeout-s", type=float, default=600.0, help="seconds to wait for the services' end (default: %(default)g)"
    )
    gc = command(
        "gc", "remove for good what was deleted in MLflow and no registered version needs; says what, removes with --yes"
    )
    gc.add_argument("--yes", action="store_true", help="remove it")
    gc.add_argument(
        "--older-than-days", type=float, default=30.0, metavar="N", help="deleted so long ago (default: %(default)g)"
    )
    gc.add_argument("--timeout-s", type=float, default=3600.0, help="seconds to wait for its end (default: %(default)g)")
    command("status", "show what runs, in which revision, and what costs money without being used")
    logs = command("logs", "print a service's log")
    logs.add_argument("service", nargs="?", default="tracking", choices=SERVICES)
    logs.add_argument("--since", default="15m", help="how far back: 90s, 15m, 3h, 2d (default: %(default)s)")
    logs.add_argument("--follow", action="store_true", help="go on until Ctrl-C")
    destroy = command("destroy", "take away what costs money by the hour; keep artifacts, a database snapshot, logins, images")
    destroy.add_argument("--data", action="store_true", help="delete the data, too: everything is gone")
    destroy.add_argument("--yes", action="store_true", help="do not ask")
    return whole


def _chosen(one: argparse.ArgumentParser) -> None:
    one.add_argument("services", nargs="*", choices=[*SERVICES, []], metavar="SERVICE", help="which of them (default: all)")


def _init(init: argparse.ArgumentParser) -> None:
    init.add_argument("--region", help="AWS region, such as eu-central-1")
    init.add_argument(
        "--allow", action="append", metavar="CIDR", help="addresses that may come in, such as 203.0.113.7/32; may be repeated"
    )
    init.add_argument("--user", help="your name at the login; the password is made and written to secrets/logins")
    init.add_argument("--name", default="atelier", help="prefix of everything that is made (default: %(default)s)")
    init.add_argument(
        "--service", action="append", choices=SERVICES[1:], default=[], help="run this one on AWS, too; may be repeated"
    )
    init.add_argument(
        "--secrets", choices=("secrets-manager", "env-file"), default="secrets-manager", help="default: %(default)s"
    )
    init.add_argument("--vpc", help="use this VPC instead of making one; needs the subnets")
    init.add_argument(
        "--public-subnet", action="append", metavar="ID", default=[], help="of the VPC; two of them for a load balancer"
    )
    init.add_argument(
        "--private-subnet", action="append", metavar="ID", default=[], help="of the VPC, for the database; two at least"
    )
    init.add_argument("--domain", help="fixed name, by a load balancer with TLS")
    init.add_argument("--zone-id", help="Route 53 zone of the domain: certificate and records are made")
    init.add_argument("--certificate-arn", help="instead of the zone: a certificate in ACM")
    init.add_argument("--start", metavar="HH:MM", help="start by the clock; needs --stop")
    init.add_argument("--stop", metavar="HH:MM", help="stop by the clock, every day")
    init.add_argument("--days", default="MON-FRI", help="days of starting (default: %(default)s)")
    init.add_argument("--timezone", default="UTC", help="of the two times, such as Europe/Berlin (default: %(default)s)")
    init.add_argument("--state-bucket", help="keep Terraform's state in this S3 bucket, with a lock; made if it does not exist")
    init.add_argument("--replace", action="store_true", help="write terraform.tfvars anew; logins that exist are kept")
