"""`push`: builds the images of a git revision and brings them to ECR."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from atelier_infra.aws.client import Aws, translated
from atelier_infra.environment.stack import Service
from atelier_infra.errors import AnswerError, ToolError
from atelier_infra.subprocess_runner import Runner


def revision(runner: Runner, root: Path, tag: str | None) -> str:
    """The tag of images: the git revision, unless one is given.

    Raises:
        AnswerError: files are changed and not committed, or the tag is no tag.
    """
    if tag is not None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", tag):
            raise AnswerError(
                f"--tag must be letters, digits and _ . - (128 at most, not starting with . or -); received {tag!r}"
            )
        return tag
    git = ["git", "-C", str(root)]
    changed = runner.run([*git, "status", "--porcelain"], said="git status").rstrip()
    if changed:
        names = ", ".join(line[3:] for line in changed.splitlines()[:3])
        raise AnswerError(
            f"an image is tagged by its git revision, and these files are not committed: {names}; commit them, or give --tag"
        )
    return runner.run([*git, "rev-parse", "--short=12", "HEAD"], said="git rev-parse").strip()


def exists(aws: Aws, service: Service, tag: str) -> bool:
    ecr = aws.client("ecr")
    with translated(aws.region):
        try:
            return bool(ecr.describe_images(repositoryName=_repository(service), imageIds=[{"imageTag": tag}])["imageDetails"])
        except ecr.exceptions.ImageNotFoundException:
            return False


def push(
    services: dict[str, Service], tag: str, root: Path, aws: Aws, runner: Runner, console: Console, *, dry_run: bool
) -> None:
    """Builds and pushes what the repositories do not hold yet.

    Args:
        services: which.
        tag: of the images.
        root: of the git repository, where the Dockerfiles expect to be built.
        aws: connection.
        runner: of docker.
        console: for what was done.
        dry_run: print the commands only.

    Raises:
        ToolError: docker is missing, or failed.
        AwsError: AWS refused.
    """
    for name, service in services.items():
        image = f"{service.repository}:{tag}"
        if exists(aws, service, tag):
            console.print(f"[green]✓[/] {image} is there already", highlight=False, soft_wrap=True)
            continue
        build = [
            "docker",
            "build",
            "--platform",
            "linux/amd64",
            "--file",
            f"{root}/services/{name}/Dockerfile",
            "--tag",
            image,
            str(root),
        ]
        if dry_run:
            console.print(f"would run {' '.join(build)}\nwould run docker push {image}", highlight=False, soft_wrap=True)
            continue
        runner.run(build, said=f"building {name}")
        _log_in(aws, runner)
        try:
            runner.run(["docker", "push", image], said=f"pushing {name}")
        except ToolError as error:
            # a login lasts twelve hours: a slow upload can outlive the one that it began with
            if not re.search(r"token has expired|no basic auth credentials|denied: Your authorization", str(error)):
                raise
            console.print("the login at ECR has expired; logging in again")
            _log_in(aws, runner)
            runner.run(["docker", "push", image], said=f"pushing {name}")
        console.print(f"[green]✓[/] {image}", highlight=False, soft_wrap=True)


def _log_in(aws: Aws, runner: Runner) -> None:
    ecr = aws.client("ecr")
    with translated(aws.region):
        given: dict[str, Any] = ecr.get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(given["authorizationToken"]).decode().partition(":")
    registry = given["proxyEndpoint"]
    runner.run(["docker", "login", "--username", user, "--password-stdin", registry], said="logging in to ECR", stdin=password)


def _repository(service: Service) -> str:
    return service.repository.partition("/")[2]
