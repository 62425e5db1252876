"""`python -m atelier_infra COMMAND`: builds the parts and turns errors into messages and exit codes."""

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
from atelier_infra.commands.logs import log_lines
from atelier_infra.commands.maintenance import Maintenance
from atelier_infra.commands.push import ImagePusher, image_tag, require_image
from atelier_infra.commands.start_stop import StartStop
from atelier_infra.commands.status import print_status
from atelier_infra.commands.up import confirmed, create_sync, up
from atelier_infra.commands.url import url
from atelier_infra.environment.stack import Stack, read_stack
from atelier_infra.errors import InfraError, Interrupted
from atelier_infra.secrets import env_files
from atelier_infra.subprocess_runner import SubprocessRunner
from atelier_infra.terraform import tfvars
from atelier_infra.terraform.runner import Terraform


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 success, 1 failure, 2 usage error, 130 interrupted."""
    options = cli.parser().parse_args(arguments)
    console = Console()
    try:
        _run(options, console)
    except Interrupted as error:
        console.print(f"{error}", highlight=False, soft_wrap=True, markup=False)
        return 130
    except InfraError as error:
        Console(stderr=True).print(f"error: {error}", highlight=False, soft_wrap=True, markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("\ninterrupted; AWS continues what was requested: see `status`")
        return 130
    return 0


def _run(options: Namespace, console: Console) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    folder: Path = options.folder.resolve()
    if options.command == "init":
        init(folder, options, Aws(options.region), ChangeRunner(console, options.region, options.dry_run))
        return
    region = tfvars.read_string(folder, "region")
    aws, changes = Aws(region), ChangeRunner(console, region, options.dry_run)
    password = env_files.read(folder / "secrets" / "tracking.env").get("DB_PW")
    terraform = Terraform(folder, console, {"db_password": password} if password else {})
    if options.command in ("plan", "up"):
        up(options, terraform, aws, changes)
        return
    with console.status("checking AWS credentials"):
        account = aws.account()
    stack = read_stack(terraform.outputs())
    if options.command in ("destroy", "restore") and stack.config_bucket:
        # a database that is recreated must get the password that the tasks read, whatever this machine holds
        remote, _ = create_sync(folder, account, aws, changes, overwrite=False)
        terraform.set_variable_secret("db_password", (remote.read("tracking") or {}).get("DB_PW") or password or "none")
    if options.command == "destroy":
        _destroy(options, terraform, stack, aws, changes)
        return
    maintenance = Maintenance(stack, account, aws, changes, folder.parent)
    if options.command in ("upgrade", "backup", "gc"):
        getattr(maintenance, options.command)(options)
    elif options.command == "restore":
        maintenance.restore(options, terraform)
    else:
        _run_on_stack(options, stack, aws, changes, folder.parent)


def _destroy(options: Namespace, terraform: Terraform, stack: Stack, aws: Aws, changes: ChangeRunner) -> None:
    if options.data:
        question, expected = "Delete EVERYTHING, including artifacts and database?", stack.name
    else:
        question, expected = f"Remove {stack.name} and keep its data?", None
    if changes.dry_run or options.yes or confirmed(question, changes.console, expected=expected):
        terraform.init()
        destroy(terraform, stack, aws, changes, data=options.data)


def _run_on_stack(options: Namespace, stack: Stack, aws: Aws, changes: ChangeRunner, root: Path) -> None:
    console, poller = changes.console, Poller(changes.console, stack.region)
    deployer = Deployer(stack, aws, changes, poller)
    start_stop = StartStop(stack, aws, changes, poller, deployer)
    runner = SubprocessRunner(console, root)
    if options.command in ("push", "deploy"):
        tag = image_tag(runner, root, options.tag)
        services = stack.select(options.services)
        if options.command == "push":
            ImagePusher(root, aws, runner, console).push(services, tag, dry_run=options.dry_run)
            return
        for name, service in services.items():
            require_image(aws, name, service, tag)
        for service in services.values():
            deployer.deploy(service, tag, options.timeout_s)
    elif options.command == "start":
        services = stack.select(options.services)
        start_stop.start(services, options.timeout_s)
        for name, service in services.items() if not options.dry_run else ():
            console.print(f"{name}: {url(stack, service, aws)}", highlight=False, soft_wrap=True)
    elif options.command == "stop":
        start_stop.stop(stack.select(options.services), database=options.database, timeout_s=options.timeout_s)
    elif options.command == "url":
        service = stack.select([options.service])[options.service]
        with console.status("reading the task from ECS"):
            address = url(stack, service, aws)
        console.print(address, highlight=False, soft_wrap=True)
        if not service.name:
            Console(stderr=True).print(
                "no load_balancer: passwords are sent in clear text, and the address changes with each start", highlight=False
            )
    elif options.command == "status":
        with console.status("reading the state from ECS and RDS"):
            print_status(stack, deployer, start_stop, console)
    elif options.command == "logs":
        service = stack.select([options.service])[options.service]
        for line in log_lines(service, aws, options.since, follow=options.follow):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
