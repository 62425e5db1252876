"""`push`: building, logging in to ECR, and renewing an expired login."""

from __future__ import annotations

import base64
import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from atelier_infra.commands import push
from atelier_infra.errors import AwsError, InputError, ToolError
from atelier_infra.subprocess_runner import SubprocessRunner
from rich.console import Console

from .stubs import REPOSITORY, StubEnvironment, service

REGISTRY = "https://123456789012.dkr.ecr.eu-central-1.amazonaws.com"
EXPIRED = "denied: Your authorization token has expired. Reauthenticate and try again."


class Recorder:
    """Records commands; the pushes fail with the given messages."""

    def __init__(self, *failures: Any) -> None:
        self.failures = list(failures)
        self.calls: list[Any] = []

    def run(self, arguments: list[str], *, description: str, stdin: str | None = None) -> str:
        self.calls.append((arguments, stdin))
        if arguments[1] == "push" and self.failures and (failure := self.failures.pop(0)):
            raise ToolError(failure)
        return ""

    def words(self) -> list[str]:
        return [arguments[1] for arguments, _ in self.calls]


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> StubEnvironment:
    return StubEnvironment(monkeypatch)


def image_missing(env: StubEnvironment) -> None:
    env.stub("ecr").add_client_error("describe_images", "ImageNotFoundException", "no")


def token(env: StubEnvironment, password: str = "hidden-token") -> None:
    data = [{"authorizationToken": base64.b64encode(f"AWS:{password}".encode()).decode(), "proxyEndpoint": REGISTRY}]
    env.stub("ecr").add_response("get_authorization_token", {"authorizationData": data})


def push_tracking(env: StubEnvironment, recorder: Recorder, tmp_path: Path, *, dry_run: bool = False) -> None:
    pusher = push.ImagePusher(tmp_path, env.aws, recorder, env.console)
    pusher.push({"tracking": service()}, "abc123", dry_run=dry_run)


def test_push_builds_and_logs_in_with_the_password_on_standard_input(env: StubEnvironment, tmp_path: Path) -> None:
    image_missing(env)
    token(env)
    recorder = Recorder()
    push_tracking(env, recorder, tmp_path)
    build, login, pushed = recorder.calls
    assert build[0][:4] == ["docker", "build", "--platform", "linux/amd64"]
    assert build[0][4:] == [
        "--file",
        f"{tmp_path}/services/tracking/Dockerfile",
        "--tag",
        f"{REPOSITORY}:abc123",
        str(tmp_path),
    ]
    assert login == (["docker", "login", "--username", "AWS", "--password-stdin", REGISTRY], "hidden-token")
    assert pushed == (["docker", "push", f"{REPOSITORY}:abc123"], None)
    assert not any("hidden-token" in " ".join(arguments) for arguments, _ in recorder.calls)
    assert "hidden-token" not in env.output
    env.assert_all_called()


def test_an_existing_tag_is_not_rebuilt(env: StubEnvironment, tmp_path: Path) -> None:
    env.stub("ecr").add_response("describe_images", {"imageDetails": [{"imageTags": ["abc123"]}]})
    recorder = Recorder()
    push_tracking(env, recorder, tmp_path)
    assert recorder.calls == []
    assert "already exists" in env.output


def test_a_login_that_expires_during_a_push_is_renewed_once(env: StubEnvironment, tmp_path: Path) -> None:
    image_missing(env)
    token(env)
    token(env, "second")
    recorder = Recorder(EXPIRED, None)
    push_tracking(env, recorder, tmp_path)
    assert recorder.words() == ["build", "login", "push", "login", "push"]
    assert recorder.calls[3][1] == "second"


@pytest.mark.parametrize(("failures", "words"), [([EXPIRED, EXPIRED], 5), (["no space left on device"], 3)])
def test_a_push_that_fails_again_is_reported(env: StubEnvironment, tmp_path: Path, failures: list[str], words: int) -> None:
    image_missing(env)
    token(env)
    token(env)
    recorder = Recorder(*failures)
    with pytest.raises(ToolError, match=failures[0][:20]):
        push_tracking(env, recorder, tmp_path)
    assert len(recorder.calls) == words


def test_an_expired_aws_session_is_reported(env: StubEnvironment, tmp_path: Path) -> None:
    image_missing(env)
    env.stub("ecr").add_client_error("get_authorization_token", "ExpiredTokenException", "The security token is expired")
    with pytest.raises(AwsError, match="the AWS session has expired"):
        push_tracking(env, Recorder(), tmp_path)


def test_a_dry_run_prints_the_commands(env: StubEnvironment, tmp_path: Path) -> None:
    image_missing(env)
    recorder = Recorder()
    push_tracking(env, recorder, tmp_path, dry_run=True)
    assert recorder.calls == []
    assert f"would run docker push {REPOSITORY}:abc123" in env.output


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, Callable[..., str]]:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "one")
    return tmp_path, git


def test_the_tag_is_the_git_revision_of_a_clean_tree(repository: tuple[Path, Callable[..., str]]) -> None:
    folder, git = repository
    runner = SubprocessRunner(Console(file=io.StringIO()), folder)
    assert push.image_tag(runner, folder, None) == git("rev-parse", "--short=12", "HEAD")
    (folder / "file").write_text("two")
    with pytest.raises(InputError, match="these files are not committed: file; commit them or pass --tag"):
        push.image_tag(runner, folder, None)
    assert push.image_tag(runner, folder, "try-1") == "try-1"


@pytest.mark.parametrize("tag", ["", "-x", "a b", "a" * 129])
def test_an_invalid_tag_is_refused(repository: tuple[Path, Callable[..., str]], tag: str) -> None:
    with pytest.raises(InputError, match="--tag must be letters"):
        push.image_tag(Recorder(), repository[0], tag)
