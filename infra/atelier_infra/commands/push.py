"""`push`: builds the images of a git revision and pushes them to ECR."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from atelier_infra.aws.client import Aws, translate_errors
from atelier_infra.environment.stack import Service
from atelier_infra.errors import InputError, NotReadyError, ToolError
from atelier_infra.subprocess_runner import Runner

EXPIRED_LOGIN = re.compile(r"token has expired|no basic auth credentials|denied: Your authorization")


def image_tag(runner: Runner, root: Path, tag: str | None) -> str:
    """The git revision, unless a tag is given.

    Raises:
        InputError: there are uncommitted changes, or the given tag is not valid.
    """
    if tag is not None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", tag):
            raise InputError(
                f"--tag must be letters, digits and _ . - (128 at most, not starting with . or -); received {tag!r}"
            )
        return tag
    git = ["git", "-C", str(root)]
    changed = runner.run([*git, "status", "--porcelain"], description="git status").rstrip()
    if changed:
        names = ", ".join(line[3:] for line in changed.splitlines()[:3])
        raise InputError(
            f"images are tagged with the git revision, and these files are not committed: {names}; commit them or pass --tag"
        )
    return runner.run([*git, "rev-parse", "--short=12", "HEAD"], description="git rev-parse").strip()


def image_exists(aws: Aws, service: Service, tag: str) -> bool:
    ecr, repository = aws.client("ecr"), service.repository.partition("/")[2]
    with translate_errors(aws.region):
        try:
            return bool(ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])["imageDetails"])
        except ecr.exceptions.ImageNotFoundException:
            return False


def require_image(aws: Aws, name: str, service: Service, tag: str) -> None:
    """Raises NotReadyError if no image with this tag was pushed."""
    if not image_exists(aws, service, tag):
        raise NotReadyError(f"{service.repository} has no image {tag}; run `python -m atelier_infra push {name}`")


class ImagePusher:
    def __init__(self, root: Path, aws: Aws, runner: Runner, console: Console) -> None:
        """`root` is the root of the git repository, which is the build context of every Dockerfile."""
        self._root, self._aws, self._runner, self._console = root, aws, runner, console

    def push(self, services: dict[str, Service], tag: str, *, dry_run: bool) -> None:
        """Builds and pushes each image that its repository does not have yet; a dry run prints the commands.

        Raises:
            ToolError: docker is missing or failed.
            AwsError: AWS refused a call or did not respond.
        """
        for name, service in services.items():
            image = f"{service.repository}:{tag}"
            if image_exists(self._aws, service, tag):
                self._console.print(f"[green]✓[/] {image} already exists", highlight=False, soft_wrap=True)
                continue
            dockerfile = f"{self._root}/services/{name}/Dockerfile"
            build = ["docker", "build", "--platform", "linux/amd64", "--file", dockerfile, "--tag", image, str(self._root)]
            if dry_run:
                commands = f"would run {' '.join(build)}\nwould run docker push {image}"
                self._console.print(commands, highlight=False, soft_wrap=True)
                continue
            self._runner.run(build, description=f"building {name}")
            self._push_image(name, image)
            self._console.print(f"[green]✓[/] {image}", highlight=False, soft_wrap=True)

    def _push_image(self, name: str, image: str) -> None:
        self._log_in()
        try:
            self._runner.run(["docker", "push", image], description=f"pushing {name}")
        except ToolError as error:
            # a login is valid for twelve hours, which a slow upload can exceed
            if not EXPIRED_LOGIN.search(str(error)):
                raise
            self._console.print("the ECR login has expired; logging in again")
            self._log_in()
            self._runner.run(["docker", "push", image], description=f"pushing {name}")

    def _log_in(self) -> None:
        with translate_errors(self._aws.region):
            response: dict[str, Any] = self._aws.client("ecr").get_authorization_token()["authorizationData"][0]
        user, _, password = base64.b64decode(response["authorizationToken"]).decode().partition(":")
        login = ["docker", "login", "--username", user, "--password-stdin", response["proxyEndpoint"]]
        self._runner.run(login, description="logging in to ECR", stdin=password)
