"""`init`: asks for what no flag gave, writes terraform.tfvars, the secrets and, if wanted, where the state is kept."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from botocore.exceptions import ClientError
from rich.console import Console
from rich.prompt import Prompt

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translated
from atelier_infra.errors import AnswerError
from atelier_infra.secrets import credentials
from atelier_infra.terraform import tfvars

QUESTIONS = {
    "region": ("AWS region", "eu-central-1"),
    "allow": ("Addresses that may come in (yours is on whatismyip.com; several: separate by spaces)", None),
    "user": ("Your name at the login", "admin"),
}


def init(folder: Path, answers: Namespace, aws: Aws, changes: ChangeRunner, console: Console) -> None:
    """Sets an environment up on this machine.

    Raises:
        AnswerError: an answer is missing or makes no sense, or terraform.tfvars exists.
    """
    target = folder / "terraform.tfvars"
    if target.exists() and not answers.replace:
        raise AnswerError(f"{target} exists; edit it, or write it anew with --replace (logins are kept)")
    _ask(answers, console)
    tfvars.check(answers)
    if "0.0.0.0/0" in answers.allow and not answers.domain:
        console.print(
            "[yellow]warning[/] passwords will cross the internet in clear text: give --domain, or a narrower --allow"
        )
    if changes.dry_run:
        console.print(
            f"would write {target}:\n{tfvars.text(answers)}would make logins in {folder / 'secrets'}",
            highlight=False,
            markup=False,
        )
    if answers.state_bucket:
        _configure_state(folder, answers, aws, changes)
    if changes.dry_run:
        return
    target.write_text(tfvars.text(answers))
    made = credentials.complete(
        folder / "secrets", ["tracking", *answers.service], answers.user, env_file=answers.secrets == "env-file"
    )
    console.print(f"[green]✓[/] {target}", highlight=False)
    for each in made:
        console.print(f"[green]✓[/] login: {each}", highlight=False)
    console.print(
        f"passwords: {folder / 'secrets' / 'logins'}\nnext: python -m atelier_infra up", highlight=False, soft_wrap=True
    )


def _ask(answers: Namespace, console: Console) -> None:
    missing = [name for name in QUESTIONS if not getattr(answers, name)]
    if missing and not sys.stdin.isatty():
        raise AnswerError("init needs " + ", ".join(f"--{name}" for name in missing) + ", since there is no terminal to ask on")
    for name in missing:
        question, default = QUESTIONS[name]
        answer = ""
        while not answer:
            answer = Prompt.ask(question, console=console, default=default or "")
        setattr(answers, name, answer.replace(",", " ").split() if name == "allow" else answer)


def _configure_state(folder: Path, answers: Namespace, aws: Aws, changes: ChangeRunner) -> None:
    """Makes the bucket if needed, and tells Terraform of it."""
    bucket = answers.state_bucket
    create_private_bucket(bucket, aws, changes)
    place_of_state = {"bucket": bucket, "key": f"{answers.name}.tfstate", "region": answers.region}
    lines = [f"    {name} = {json.dumps(value)}" for name, value in place_of_state.items()]
    if not changes.dry_run:
        (folder / "backend.tf").write_text(
            "\n".join(
                ["terraform {", '  backend "s3" {', *lines, "    encrypt = true", "    use_lockfile = true", "  }", "}", ""]
            )
        )


def create_private_bucket(bucket: str, aws: Aws, changes: ChangeRunner) -> None:
    """Makes a bucket that is closed to the public and keeps old versions, unless it is there.

    Raises:
        AnswerError: somebody else has the name.
    """
    s3 = aws.client("s3")
    with translated(aws.region):
        try:
            s3.head_bucket(Bucket=bucket)
            return
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
                raise AnswerError(f"a bucket must be yours or its name free; received {bucket!r}, which is taken") from error
    place = {} if aws.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": aws.region}}
    changes.make(f"make bucket {bucket}", s3.create_bucket, Bucket=bucket, **place)
    block = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    changes.make("close it to the public", s3.put_public_access_block, Bucket=bucket, PublicAccessBlockConfiguration=block)
    changes.make("keep old versions", s3.put_bucket_versioning, Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
