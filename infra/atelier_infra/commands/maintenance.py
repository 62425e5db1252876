"""`upgrade`, `backup`, `restore` and `gc`: what keeps an environment's data over years."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from rich.console import Console

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws
from atelier_infra.aws.poller import Poller
from atelier_infra.commands.backup import NAME, Backups
from atelier_infra.commands.deploy import Deployer
from atelier_infra.commands.push import exists, revision
from atelier_infra.commands.start_stop import StartStop
from atelier_infra.commands.up import confirmed
from atelier_infra.commands.upgrade import upgrade
from atelier_infra.environment.one_off_task import OneOffTask
from atelier_infra.environment.snapshots import Snapshots, restore_snapshot
from atelier_infra.environment.stack import Stack
from atelier_infra.errors import NotReadyError
from atelier_infra.subprocess_runner import SubprocessRunner
from atelier_infra.terraform.runner import Terraform


class Maintenance:
    """Builds the parts of the four commands for one environment."""

    def __init__(self, stack: Stack, account: str, aws: Aws, changes: ChangeRunner, console: Console, root: Path) -> None:
        self._stack, self._aws, self._changes, self._console, self._root = stack, aws, changes, console, root
        poller = Poller(console, stack.region)
        self._deployer = Deployer(stack, aws, changes, poller)
        self._start_stop = StartStop(stack, aws, changes, poller, self._deployer, console)
        self._snapshots = Snapshots(stack, aws, changes, poller)
        self._one_off = OneOffTask(stack, aws, changes, poller, console)
        self._backups = Backups(stack, account, aws, changes, self._snapshots)

    def upgrade(self, parsed: Namespace) -> None:
        tag = revision(SubprocessRunner(self._console, self._root), self._root, parsed.tag)
        services = self._stack.chosen([])
        for name, service in services.items():
            if not exists(self._aws, service, tag):
                raise NotReadyError(f"{service.repository} holds no image {tag}; run `python -m atelier_infra push {name}`")
        parts = (self._deployer, self._start_stop, self._snapshots, self._one_off, self._console)
        upgrade(services, tag, *parts, parsed.timeout_s)

    def backup(self, parsed: Namespace) -> None:
        services = self._stack.chosen([])
        images = {
            name: self._deployer.image(self._deployer.describe(service)["taskDefinition"]).rpartition(":")[2]
            for name, service in services.items()
        }
        self._start_stop.start_database(parsed.timeout_s)
        name = self._backups.make(images, parsed.timeout_s)
        if not self._changes.dry_run:
            self._console.print(f"bring it back with: python -m atelier_infra restore {name}", highlight=False)

    def restore(self, parsed: Namespace, terraform: Terraform) -> None:
        """A backup, or the snapshot that `upgrade` took."""
        services = self._stack.chosen([])
        told = self._backups.read(parsed.backup) if NAME.fullmatch(parsed.backup) else None
        snapshot = told.snapshot if told else str(parsed.backup)
        self._snapshots.check(snapshot)
        question = f"Put {snapshot} in the place of the database of {self._stack.name}? What it holds now goes into a snapshot."
        if not (parsed.yes or self._changes.dry_run or confirmed(question, self._console, expected=self._stack.name)):
            return
        self._start_stop.start_database(parsed.timeout_s)
        self._start_stop.stop_services(services, parsed.timeout_s)
        if told:
            number = self._backups.restore_artifacts(told)
            verb = "would bring" if self._changes.dry_run else "brought"
            self._console.print(f"{verb} {number} of {len(told.objects)} artifacts back; the others are as they were")
        terraform.init()
        kept = restore_snapshot(terraform, self._stack, snapshot, self._console, dry_run=self._changes.dry_run)
        if not self._changes.dry_run:
            images = [
                f"python -m atelier_infra deploy {name} --tag {tag}" for name, tag in (told.images if told else {}).items()
            ]
            self._console.print(f"what was there is in snapshot {kept}\nnext:", highlight=False)
            for line in [
                *(images or ["python -m atelier_infra deploy --tag <the revision of that time>"]),
                "python -m atelier_infra start",
            ]:
                self._console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)

    def gc(self, parsed: Namespace) -> None:
        """The image's own command, in a task of its own."""
        tracking = self._stack.chosen(["tracking"])["tracking"]
        described = self._deployer.describe(tracking)
        if not self._deployer.is_deployed(described):
            raise NotReadyError(
                "tracking has no image yet; run `python -m atelier_infra push tracking`, then `deploy tracking`"
            )
        self._start_stop.start_database(parsed.timeout_s)
        words = ["gc", "--older-than-days", f"{parsed.older_than_days:g}", *(["--yes"] if parsed.yes else [])]
        self._one_off.run(tracking, described, described["taskDefinition"], words, parsed.timeout_s)
