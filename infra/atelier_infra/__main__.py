"""`python -m atelier_infra COMMAND`: builds the parts, and turns errors into one message and an exit code."""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from pathlib import Path

from rich.console import Console

from atelier_infra import cli
from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws
from atelier_infra.aws.poller import Poller
from atelier_infra.commands.deploy import Deployer
from atelier_infra.commands.destroy import destroy
from atelier_infra.commands.init import init
from atelier_infra.commands.logs import lines
from atelier_infra.commands.maintenance import Maintenance
from atelier_infra.commands.push import exists, push, revision
from atelier_infra.commands.start_stop import StartStop
from atelier_infra.commands.status import print_status
from atelier_infra.commands.up import confirmed, make_sync, up
from atelier_infra.commands.url import url
from atelier_infra.environment.stack import Stack, read_stack
from atelier_infra.errors import InfraError, Interrupted, NotReadyError
from atelier_infra.secrets import env_files
from atelier_infra.subprocess_runner import SubprocessRunner
from atelier_infra.terraform import tfvars
from atelier_infra.terraform.runner import Terraform


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 not understood, 130 interrupted."""
    parsed = cli.parser().parse_args(arguments)
    console = Console()
    try:
        _run(parsed, console)
    except Interrupted as error:
        console.print(f"{error}", highlight=False, soft_wrap=True, markup=False)
        return 130
    except InfraError as error:
        Console(stderr=True).print(f"error: {error}", highlight=False, soft_wrap=True, markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nstopped; what AWS was told to do goes on, `status` shows it")
        return 130
    return 0


def _run(parsed: Namespace, console: Console) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):  # a shell's background job starts with Ctrl-C ignored
        signal.signal(each, signal.default_int_handler)
    folder: Path = parsed.folder.resolve()
    if parsed.command == "init":
        aws = Aws(parsed.region)
        init(folder, parsed, aws, ChangeRunner(console, parsed.region, parsed.dry_run), console)
        return
    region = tfvars.line(folder, "region")
    aws, changes = Aws(region), ChangeRunner(console, region, parsed.dry_run)
    password = env_files.read(folder / "secrets" / "tracking.env").get("DB_PW")
    terraform = Terraform(folder, console, {"db_password": password} if password else {})
    if parsed.command in ("plan", "up"):
        up(parsed, terraform, aws, changes, console)
        return
    with console.status("asking AWS whose credentials these are"):
        account = aws.account()
    stack = read_stack(terraform.outputs())
    if parsed.command in ("destroy", "restore") and stack.config_bucket:
        # what the tasks read, whatever this machine has: a database that is made anew gets it
        remote, _ = make_sync(folder, account, aws, changes, console, overwrite=False)
        terraform.set_variable_secret("db_password", (remote.read("tracking") or {}).get("DB_PW") or password or "none")
    if parsed.command == "destroy":
        question = (
            "Delete EVERYTHING, artifacts and database included?"
            if parsed.data
            else f"Take {stack.name} away and keep its data?"
        )
        if parsed.dry_run or parsed.yes or confirmed(question, console, expected=stack.name if parsed.data else None):
            terraform.init()
            destroy(terraform, stack, aws, changes, console, data=parsed.data)
        return
    operator = Maintenance(stack, account, aws, changes, console, folder.parent)
    if parsed.command in ("upgrade", "backup", "gc"):
        getattr(operator, parsed.command)(parsed)
    elif parsed.command == "restore":
        operator.restore(parsed, terraform)
    else:
        _on_a_stack(parsed, stack, aws, changes, console, folder.parent)


def _on_a_stack(parsed: Namespace, stack: Stack, aws: Aws, changes: ChangeRunner, console: Console, root: Path) -> None:
    poller = Poller(console, stack.region)
    deployer = Deployer(stack, aws, changes, poller)
    switch = StartStop(stack, aws, changes, poller, deployer, console)
    runner = SubprocessRunner(console, root)
    if parsed.command in ("push", "deploy"):
        tag = revision(runner, root, parsed.tag)
        services = stack.chosen(parsed.services)
        if parsed.command == "push":
            push(services, tag, root, aws, runner, console, dry_run=parsed.dry_run)
            return
        for name, service in services.items():
            if not exists(aws, service, tag):
                raise NotReadyError(f"{service.repository} holds no image {tag}; run `python -m atelier_infra push {name}`")
        for service in services.values():
            deployer.deploy(service, tag, parsed.timeout_s)
    elif parsed.command == "start":
        services = stack.chosen(parsed.services)
        switch.start(services, parsed.timeout_s)
        for name, service in services.items() if not parsed.dry_run else ():
            console.print(f"{name}: {url(stack, service, aws)}", highlight=False, soft_wrap=True)
    elif parsed.command == "stop":
        switch.stop(stack.chosen(parsed.services), database=parsed.database, timeout_s=parsed.timeout_s)
    elif parsed.command == "url":
        service = stack.chosen([parsed.service])[parsed.service]
        with console.status("asking ECS"):
            address = url(stack, service, aws)
        console.print(address, highlight=False, soft_wrap=True)
        if not service.name:
            Console(stderr=True).print(
                "the login travels in clear text (no load_balancer), and the address changes at each start", highlight=False
            )
    elif parsed.command == "status":
        with console.status("asking ECS and RDS"):
            print_status(stack, deployer, switch, console)
    elif parsed.command == "logs":
        for line in lines(stack.chosen([parsed.service])[parsed.service], aws, parsed.since, follow=parsed.follow):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
