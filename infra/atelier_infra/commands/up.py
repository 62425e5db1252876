"""`plan` and `up`: what Terraform would change, what it costs, and then doing it."""

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
from atelier_infra.errors import AnswerError
from atelier_infra.secrets import credentials, database_password, env_files
from atelier_infra.secrets.remote_secrets import EnvFileStore, SecretsManagerStore, SecretStore
from atelier_infra.secrets.sync_secrets import SecretsSync
from atelier_infra.terraform import costs, tfvars
from atelier_infra.terraform.runner import Terraform

WORDS = {"create": "make", "update": "change", "delete": "remove", "read": "read"}


def up(parsed: Namespace, terraform: Terraform, aws: Aws, changes: ChangeRunner, console: Console) -> None:
    """Plans, shows the plan and its price, and for `up` applies it and brings the secrets."""
    with console.status("asking AWS whose credentials these are"):
        account = aws.account()
    console.print(f"account {account}, region {aws.region}", highlight=False)
    folder = terraform.folder
    only_look = parsed.command == "plan" or changes.dry_run
    env_file = tfvars.line(folder, "secrets", "") == "env-file"
    remote, shared = make_sync(folder, account, aws, changes, console, overwrite=getattr(parsed, "overwrite_secrets", False))
    if parsed.command == "up":
        shared.adopt(tfvars.services(folder), dry_run=changes.dry_run)
    if not only_look:
        if env_file and not parsed.overwrite_secrets:
            name = str(tfvars.line(folder, "name", "atelier"))
            database_password.refuse_if_lost(folder / "secrets", name, config_bucket(name, account, aws), aws)
        made = credentials.complete(folder / "secrets", tfvars.services(folder), "admin", env_file=env_file)
        for each in made:
            console.print(f"[green]✓[/] login: {each} (secrets/logins)", highlight=False)
    if env_file:
        # a plan alone needs some password and writes none of it
        terraform.set_variable_secret(
            "db_password", env_files.read(folder / "secrets" / "tracking.env").get("DB_PW", "made-by-up")
        )
    terraform.init()
    with TemporaryDirectory() as place:
        path = Path(place) / "plan"
        plan = terraform.plan(path, {})
        if _makes_database(plan) and not getattr(parsed, "empty_database", False):
            kept = snapshots(str(tfvars.line(folder, "name", "atelier")), aws, kept=True)
            if kept:
                console.print(f"the database goes on from snapshot {kept[-1]} (--empty-database begins anew)", highlight=False)
                plan = terraform.plan(path, {"database_snapshot": kept[-1]})
        if half_made := _half_made_database(plan):
            console.print("the database was being made when an earlier run ended; it is kept", highlight=False)
            if not only_look:
                terraform.untaint(half_made)
                plan = terraform.plan(path, {})
        elif _replaces_database(plan):
            raise AnswerError(
                "this plan would delete the database and make an empty one; `terraform plan` in the folder shows why"
            )
        if env_file and not only_look:
            database_password.refuse_if_unset(plan, folder / "secrets", remote)
        _summary(plan, console)
        costs.print_costs(plan, costs.read_prices(), console)
        if only_look:
            return
        if _actions(plan) and not (parsed.yes or confirmed("Do it?", console)):
            return
        terraform.apply(path)
    stack = read_stack(terraform.outputs())
    shared.sync(stack.services)
    if stack.balancer and not any("route53" in each["type"] for each in plan.get("resource_changes", [])):
        for service in stack.services.values():
            console.print(f"DNS record needed: {service.name} CNAME {stack.balancer}", highlight=False, soft_wrap=True)
    console.print("next: python -m atelier_infra push, deploy, start")


def config_bucket(name: str, account: str, aws: Aws) -> str:
    """The bucket of the env files, as storage.tf names it."""
    return f"{name}-config-{account}-{aws.region}"


def make_sync(
    folder: Path, account: str, aws: Aws, changes: ChangeRunner, console: Console, *, overwrite: bool
) -> tuple[SecretStore, SecretsSync]:
    """Where the tasks read secrets by terraform.tfvars, and this machine's files against it."""
    name = str(tfvars.line(folder, "name", "atelier"))
    places: list[SecretStore] = [
        EnvFileStore(config_bucket(name, account, aws), aws, changes),
        SecretsManagerStore(name, aws, changes),
    ]
    if tfvars.line(folder, "secrets", "") != "env-file":
        places.reverse()
    return places[0], SecretsSync(folder / "secrets", places[0], console, earlier=places[1], overwrite=overwrite)


def confirmed(question: str, console: Console, expected: str | None = None) -> bool:
    """Asks.

    Args:
        question: with a yes or no as its answer.
        console: to ask on.
        expected: word to type instead of yes, where a slip of the finger would be too dear.

    Raises:
        AnswerError: nobody is there to answer.
    """
    if not sys.stdin.isatty():
        raise AnswerError(f"{question} There is no terminal to answer on; say --yes if you mean it")
    word = expected or "yes"
    answer = Prompt.ask(f"{question} Type {word}", console=console, default="no")
    if answer != word:
        console.print("nothing was changed")
    return answer == word


def _actions(plan: dict[str, Any]) -> Counter[str]:
    return Counter(
        action
        for each in plan.get("resource_changes", [])
        for action in each["change"]["actions"]
        if each["mode"] == "managed" and action != "no-op"
    )


def _summary(plan: dict[str, Any], console: Console) -> None:
    actions = _actions(plan)
    for each in plan.get("resource_changes", []):
        done = [action for action in each["change"]["actions"] if action not in ("no-op", "read")]
        if done and done != ["create"]:
            console.print(
                f"  {' and '.join(WORDS[action] for action in done)} {each['address']}", highlight=False, markup=False
            )
    console.print(", ".join(f"{WORDS[action]} {count}" for action, count in sorted(actions.items())) or "nothing to change")


def _database(plan: dict[str, Any]) -> list[str]:
    found = [each for each in plan.get("resource_changes", []) if each["type"] == "aws_db_instance"]
    return [action for each in found for action in each["change"]["actions"]]


def _makes_database(plan: dict[str, Any]) -> bool:
    return _database(plan) == ["create"]


def _half_made_database(plan: dict[str, Any]) -> str | None:
    """Its address, where Terraform would replace it for no other reason than that its making was cut short."""
    for each in plan.get("resource_changes", []):
        if each["type"] == "aws_db_instance" and each.get("action_reason") == "replace_because_tainted":
            return str(each["address"])
    return None


def _replaces_database(plan: dict[str, Any]) -> bool:
    return {"create", "delete"} <= set(_database(plan))
