"""`plan` and `up`: prints what Terraform would change and what it costs; `up` then applies it and synchronizes secrets."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.prompt import Prompt

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws
from atelier_infra.commands.destroy import snapshots
from atelier_infra.environment.stack import read_stack
from atelier_infra.errors import InputError
from atelier_infra.secrets import credentials, database_password, env_files
from atelier_infra.secrets.remote_secrets import EnvFileStore, SecretsManagerStore, SecretStore
from atelier_infra.secrets.sync_secrets import SecretsSync
from atelier_infra.terraform import costs, tfvars
from atelier_infra.terraform.runner import Terraform

VERBS = {"create": "create", "update": "change", "delete": "remove", "read": "read"}


def up(options: Namespace, terraform: Terraform, aws: Aws, changes: ChangeRunner) -> None:
    """Plans, prints the plan and its cost and, for `up`, applies it and writes the secrets."""
    console, folder = changes.console, terraform.folder
    with console.status("checking AWS credentials"):
        account = aws.account()
    console.print(f"account {account}, region {aws.region}", highlight=False)
    plan_only = options.command == "plan" or changes.dry_run
    env_file = tfvars.read_string(folder, "secrets", "") == "env-file"
    overwrite = options.command == "up" and options.overwrite_secrets
    remote, sync = create_sync(folder, account, aws, changes, overwrite=overwrite)
    if options.command == "up":
        sync.adopt(tfvars.read_services(folder), dry_run=changes.dry_run)
    if not plan_only:
        if env_file and not overwrite:
            name = str(tfvars.read_string(folder, "name", "atelier"))
            database_password.refuse_if_lost(folder / "secrets", name, config_bucket(name, account, aws), aws)
        created = credentials.create_missing(folder / "secrets", tfvars.read_services(folder), "admin", env_file=env_file)
        for credential in created:
            console.print(f"[green]✓[/] created: {credential} (secrets/logins)", highlight=False)
    if env_file:
        # `plan` needs some value and writes it nowhere
        password = env_files.read(folder / "secrets" / "tracking.env").get("DB_PW", "made-by-up")
        terraform.set_variable_secret("db_password", password)
    terraform.init()
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "plan"
        plan = _plan(options, terraform, path, aws, console)
        if env_file and not plan_only:
            database_password.refuse_if_not_applied(plan, folder / "secrets", remote)
        _print_summary(plan, console)
        costs.print_costs(plan, costs.read_prices(), console)
        if plan_only or (_count_actions(plan) and not (options.yes or confirmed("Apply this plan?", console))):
            return
        terraform.apply(path)
    stack = read_stack(terraform.outputs())
    sync.sync(stack.services)
    if stack.balancer and not any("route53" in resource["type"] for resource in plan.get("resource_changes", [])):
        for service in stack.services.values():
            console.print(f"DNS record needed: {service.name} CNAME {stack.balancer}", highlight=False, soft_wrap=True)
    console.print("next: python -m atelier_infra push, deploy, start")


def config_bucket(name: str, account: str, aws: Aws) -> str:
    """Name of the bucket of env files; the same as in storage.tf."""
    return f"{name}-config-{account}-{aws.region}"


def create_sync(
    folder: Path, account: str, aws: Aws, changes: ChangeRunner, *, overwrite: bool
) -> tuple[SecretStore, SecretsSync]:
    """The store that terraform.tfvars selects, and the synchronization of this machine's files with it."""
    name = str(tfvars.read_string(folder, "name", "atelier"))
    stores: list[SecretStore] = [
        EnvFileStore(config_bucket(name, account, aws), aws, changes),
        SecretsManagerStore(name, aws, changes),
    ]
    if tfvars.read_string(folder, "secrets", "") != "env-file":
        stores.reverse()
    current, previous = stores
    return current, SecretsSync(folder / "secrets", current, changes.console, previous=previous, overwrite=overwrite)


def confirmed(question: str, console: Console, expected: str | None = None) -> bool:
    """Asks for confirmation on the terminal.

    Args:
        question: a yes-or-no question.
        console: the terminal.
        expected: word to type instead of yes, for actions that lose data.

    Raises:
        InputError: there is no terminal.
    """
    if not sys.stdin.isatty():
        raise InputError(f"{question} There is no terminal to confirm on; pass --yes to confirm")
    word = expected or "yes"
    answer = Prompt.ask(f"{question} Type {word}", console=console, default="no")
    if answer != word:
        console.print("nothing was changed")
    return answer == word


def _plan(options: Namespace, terraform: Terraform, path: Path, aws: Aws, console: Console) -> dict[str, Any]:
    """Writes a plan that creates the database from the last snapshot, and never replaces an existing database.

    Raises:
        InputError: the plan would replace the database.
    """
    plan = terraform.plan(path, {})
    use_snapshot = options.command == "plan" or not options.empty_database
    if _database_actions(plan) == ["create"] and use_snapshot:
        kept = snapshots(str(tfvars.read_string(terraform.folder, "name", "atelier")), aws, kept=True)
        if kept:
            notice = f"the database will be created from snapshot {kept[-1]} (--empty-database creates an empty one)"
            console.print(notice, highlight=False)
            plan = terraform.plan(path, {"database_snapshot": kept[-1]})
    if tainted := _tainted_database(plan):
        console.print("an earlier run was interrupted while it created the database; the database is kept", highlight=False)
        if options.command == "up" and not options.dry_run:
            terraform.untaint(tainted)
            plan = terraform.plan(path, {})
    elif {"create", "delete"} <= set(_database_actions(plan)):
        raise InputError(
            "this plan would delete the database and create an empty one; run `terraform plan` in the folder for the reason"
        )
    return plan


def _count_actions(plan: dict[str, Any]) -> Counter[str]:
    return Counter(
        action
        for resource in plan.get("resource_changes", [])
        for action in resource["change"]["actions"]
        if resource["mode"] == "managed" and action != "no-op"
    )


def _print_summary(plan: dict[str, Any], console: Console) -> None:
    for resource in plan.get("resource_changes", []):
        actions = [action for action in resource["change"]["actions"] if action not in ("no-op", "read")]
        if actions and actions != ["create"]:
            verbs = " and ".join(VERBS[action] for action in actions)
            console.print(f"  {verbs} {resource['address']}", highlight=False, markup=False)
    counts = sorted(_count_actions(plan).items())
    console.print(", ".join(f"{VERBS[action]} {count}" for action, count in counts) or "no changes")


def _database_changes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [resource for resource in plan.get("resource_changes", []) if resource["type"] == "aws_db_instance"]


def _database_actions(plan: dict[str, Any]) -> list[str]:
    return [action for resource in _database_changes(plan) for action in resource["change"]["actions"]]


def _tainted_database(plan: dict[str, Any]) -> str | None:
    """Address of a database that Terraform would replace only because its creation was interrupted."""
    for resource in _database_changes(plan):
        if resource.get("action_reason") == "replace_because_tainted":
            return str(resource["address"])
    return None
