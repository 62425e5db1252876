"""`upgrade`, `backup`, `restore` and `gc` on one environment."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws
from atelier_infra.aws.poller import Poller
from atelier_infra.commands.backup import BACKUP_NAME, Backups
from atelier_infra.commands.deploy import Deployer
from atelier_infra.commands.push import image_tag, require_image
from atelier_infra.commands.start_stop import StartStop
from atelier_infra.commands.up import confirmed
from atelier_infra.commands.upgrade import Upgrade
from atelier_infra.environment.one_off_task import OneOffTask
from atelier_infra.environment.snapshots import Snapshots, restore_snapshot
from atelier_infra.environment.stack import Stack
from atelier_infra.errors import NotReadyError
from atelier_infra.subprocess_runner import SubprocessRunner
from atelier_infra.terraform.runner import Terraform


class Maintenance:
    def __init__(self, stack: Stack, account: str, aws: Aws, changes: ChangeRunner, root: Path) -> None:
        self._stack, self._aws, self._changes, self._root = stack, aws, changes, root
        self._console = changes.console
        poller = Poller(changes.console, stack.region)
        self._deployer = Deployer(stack, aws, changes, poller)
        self._start_stop = StartStop(stack, aws, changes, poller, self._deployer)
        self._snapshots = Snapshots(stack, aws, changes, poller)
        self._one_off = OneOffTask(stack, aws, changes, poller)
        self._backups = Backups(stack, account, aws, changes, self._snapshots)

    def upgrade(self, options: Namespace) -> None:
        tag = image_tag(SubprocessRunner(self._console, self._root), self._root, options.tag)
        services = self._stack.select([])
        for name, service in services.items():
            require_image(self._aws, name, service, tag)
        upgrade = Upgrade(self._deployer, self._start_stop, self._snapshots, self._one_off, self._console)
        upgrade.run(services, tag, options.timeout_s)

    def backup(self, options: Namespace) -> None:
        images = {
            name: self._deployer.image_tag(self._deployer.describe(service)) for name, service in self._stack.select([]).items()
        }
        self._start_stop.start_database(options.timeout_s)
        name = self._backups.create(images, options.timeout_s)
        if not self._changes.dry_run:
            self._console.print(f"restore with: python -m atelier_infra restore {name}", highlight=False)

    def restore(self, options: Namespace, terraform: Terraform) -> None:
        """Restores a backup, or the database alone from a snapshot that `upgrade` took."""
        services = self._stack.select([])
        manifest = self._backups.read(options.backup) if BACKUP_NAME.fullmatch(options.backup) else None
        snapshot = manifest.snapshot if manifest else str(options.backup)
        self._snapshots.check(snapshot)
        question = f"Replace the database of {self._stack.name} by {snapshot}? Its current content is kept in a snapshot."
        if not (options.yes or self._changes.dry_run or confirmed(question, self._console, expected=self._stack.name)):
            return
        self._start_stop.start_database(options.timeout_s)
        self._start_stop.stop_services(services, options.timeout_s)
        if manifest:
            count = self._backups.restore_artifacts(manifest)
            verb = "would restore" if self._changes.dry_run else "restored"
            self._console.print(f"{verb} {count} of {len(manifest.objects)} artifacts; the others are unchanged")
        terraform.init()
        previous = restore_snapshot(terraform, self._stack, snapshot, self._console, dry_run=self._changes.dry_run)
        if not self._changes.dry_run:
            images = manifest.images if manifest else {}
            deploys = [f"python -m atelier_infra deploy {name} --tag {tag}" for name, tag in images.items()]
            self._console.print(f"the previous database is in snapshot {previous}\nnext:", highlight=False)
            for line in [
                *(deploys or ["python -m atelier_infra deploy --tag <the revision of that time>"]),
                "python -m atelier_infra start",
            ]:
                self._console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)

    def gc(self, options: Namespace) -> None:
        """Runs the tracking image's `gc` command in a one-off task."""
        tracking = self._stack.select(["tracking"])["tracking"]
        description = self._deployer.describe(tracking)
        if not self._deployer.is_deployed(description):
            raise NotReadyError(
                "tracking has no image yet; run `python -m atelier_infra push tracking`, then `deploy tracking`"
            )
        self._start_stop.start_database(options.timeout_s)
        command = ["gc", "--older-than-days", f"{options.older_than_days:g}", *(["--yes"] if options.yes else [])]
        network = description.get("networkConfiguration")
        self._one_off.run(tracking, network, description["taskDefinition"], command, options.timeout_s)
