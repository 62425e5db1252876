"""`init`: asks for missing answers, writes terraform.tfvars and the credentials, and configures the state bucket if given."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from botocore.exceptions import ClientError
from rich.console import Console
from rich.prompt import Prompt

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translate_errors
from atelier_infra.errors import InputError
from atelier_infra.secrets import credentials
from atelier_infra.terraform import tfvars

QUESTIONS = {
    "region": ("AWS region", "eu-central-1"),
    "allow": ("IPv4 ranges that may connect, separated by spaces (whatismyip.com shows your address)", None),
    "user": ("Your user name", "admin"),
}


def init(folder: Path, answers: Namespace, aws: Aws, changes: ChangeRunner) -> None:
    """Writes the files of an environment on this machine.

    Raises:
        InputError: an answer is missing or invalid, or terraform.tfvars exists.
    """
    target, console = folder / "terraform.tfvars", changes.console
    if target.exists() and not answers.replace:
        raise InputError(f"{target} exists; edit it, or overwrite it with --replace (credentials are kept)")
    _ask(answers, console)
    tfvars.check(answers)
    if "0.0.0.0/0" in answers.allow and not answers.domain:
        console.print("[yellow]warning[/] passwords will cross the internet in clear text; pass --domain or a narrower --allow")
    if changes.dry_run:
        console.print(
            f"would write {target}:\n{tfvars.format_tfvars(answers)}would create credentials in {folder / 'secrets'}",
            highlight=False,
            markup=False,
        )
    if answers.state_bucket:
        _configure_state(folder, answers, aws, changes)
    if changes.dry_run:
        return
    target.write_text(tfvars.format_tfvars(answers))
    created = credentials.create_missing(
        folder / "secrets", ["tracking", *answers.service], answers.user, env_file=answers.secrets == "env-file"
    )
    console.print(f"[green]✓[/] {target}", highlight=False)
    for credential in created:
        console.print(f"[green]✓[/] created: {credential}", highlight=False)
    console.print(
        f"passwords: {folder / 'secrets' / 'logins'}\nnext: python -m atelier_infra up", highlight=False, soft_wrap=True
    )


def _ask(answers: Namespace, console: Console) -> None:
    missing = [name for name in QUESTIONS if not getattr(answers, name)]
    if missing and not sys.stdin.isatty():
        flags = ", ".join(f"--{name}" for name in missing)
        raise InputError(f"without a terminal init needs all answers as options; missing: {flags}")
    for name in missing:
        question, default = QUESTIONS[name]
        answer = ""
        while not answer:
            answer = Prompt.ask(question, console=console, default=default or "")
        setattr(answers, name, answer.replace(",", " ").split() if name == "allow" else answer)


def _configure_state(folder: Path, answers: Namespace, aws: Aws, changes: ChangeRunner) -> None:
    """Creates the bucket if needed, and writes Terraform's backend configuration."""
    bucket = answers.state_bucket
    create_private_bucket(bucket, aws, changes)
    backend = {"bucket": bucket, "key": f"{answers.name}.tfstate", "region": answers.region}
    lines = [f"    {name} = {json.dumps(value)}" for name, value in backend.items()]
    if not changes.dry_run:
        (folder / "backend.tf").write_text(
            "\n".join(
                ["terraform {", '  backend "s3" {', *lines, "    encrypt = true", "    use_lockfile = true", "  }", "}", ""]
            )
        )


def create_private_bucket(bucket: str, aws: Aws, changes: ChangeRunner) -> None:
    """Creates a private, versioned bucket, unless it exists.

    Raises:
        InputError: the bucket belongs to another account.
    """
    s3 = aws.client("s3")
    with translate_errors(aws.region):
        try:
            s3.head_bucket(Bucket=bucket)
            return
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
                raise InputError(
                    f"the bucket must belong to your account or not exist yet; received {bucket!r}, which another account "
                    "owns; choose another name"
                ) from error
    location = {} if aws.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": aws.region}}
    changes.run(f"create bucket {bucket}", s3.create_bucket, Bucket=bucket, **location)
    block = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    changes.run("block public access", s3.put_public_access_block, Bucket=bucket, PublicAccessBlockConfiguration=block)
    changes.run("enable versioning", s3.put_bucket_versioning, Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
