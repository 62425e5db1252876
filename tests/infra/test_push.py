"""`push`: what is built, how docker logs in, and what happens when a login expires on the way."""

import base64
import io
import subprocess

import pytest
from atelier_infra.commands import push as images
from atelier_infra.errors import AnswerError, AwsError, ToolError
from atelier_infra.subprocess_runner import SubprocessRunner
from rich.console import Console

from .stubs import REPOSITORY, Scene, service

REGISTRY = "https://123456789012.dkr.ecr.eu-central-1.amazonaws.com"
EXPIRED = "denied: Your authorization token has expired. Reauthenticate and try again."


class Recorder:
    """Keeps what would be run; fails pushes as told."""

    def __init__(self, *failures):
        self.calls, self.failures = [], list(failures)

    def run(self, arguments, *, said, stdin=None):
        self.calls.append((arguments, stdin))
        if arguments[1] == "push" and self.failures and (failure := self.failures.pop(0)):
            raise ToolError(failure)
        return ""

    def words(self):
        return [arguments[1] for arguments, _ in self.calls]


@pytest.fixture
def scene(monkeypatch):
    return Scene(monkeypatch)


def not_there(scene):
    scene.stub("ecr").add_client_error("describe_images", "ImageNotFoundException", "no")


def token(scene, password="hidden-token"):
    data = [{"authorizationToken": base64.b64encode(f"AWS:{password}".encode()).decode(), "proxyEndpoint": REGISTRY}]
    scene.stub("ecr").add_response("get_authorization_token", {"authorizationData": data})


def push(scene, recorder, tmp_path, **options):
    images.push({"tracking": service()}, "abc123", tmp_path, scene.aws, recorder, scene.console, **{"dry_run": False} | options)


def test_it_builds_logs_in_and_pushes_with_the_password_on_standard_input(scene, tmp_path):
    not_there(scene)
    token(scene)
    recorder = Recorder()
    push(scene, recorder, tmp_path)
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
    assert "hidden-token" not in scene.text
    scene.all_said()


def test_a_tag_that_is_there_is_not_built_again(scene, tmp_path):
    scene.stub("ecr").add_response("describe_images", {"imageDetails": [{"imageTags": ["abc123"]}]})
    recorder = Recorder()
    push(scene, recorder, tmp_path)
    assert recorder.calls == []
    assert "is there already" in scene.text


def test_a_login_that_expires_during_a_push_is_renewed_once(scene, tmp_path):
    not_there(scene)
    token(scene)
    token(scene, "second")
    recorder = Recorder(EXPIRED, None)
    push(scene, recorder, tmp_path)
    assert recorder.words() == ["build", "login", "push", "login", "push"]
    assert recorder.calls[3][1] == "second"


@pytest.mark.parametrize(("failures", "words"), [([EXPIRED, EXPIRED], 5), (["no space left on device"], 3)])
def test_a_push_that_fails_for_good_says_so(scene, tmp_path, failures, words):
    not_there(scene)
    token(scene)
    token(scene)
    recorder = Recorder(*failures)
    with pytest.raises(ToolError, match=failures[0][:20]):
        push(scene, recorder, tmp_path)
    assert len(recorder.calls) == words


def test_an_aws_session_that_has_expired_is_named(scene, tmp_path):
    not_there(scene)
    scene.stub("ecr").add_client_error("get_authorization_token", "ExpiredTokenException", "The security token is expired")
    with pytest.raises(AwsError, match="the AWS session has expired"):
        push(scene, Recorder(), tmp_path)


def test_a_dry_run_prints_the_commands(scene, tmp_path):
    not_there(scene)
    recorder = Recorder()
    push(scene, recorder, tmp_path, dry_run=True)
    assert recorder.calls == []
    assert f"would run docker push {REPOSITORY}:abc123" in scene.text


@pytest.fixture
def repository(tmp_path):
    def git(*words):
        return subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "one")
    return tmp_path, git


def test_the_tag_is_the_revision_of_what_is_committed(repository):
    folder, git = repository
    runner = SubprocessRunner(Console(file=io.StringIO()), folder)
    assert images.revision(runner, folder, None) == git("rev-parse", "--short=12", "HEAD")
    (folder / "file").write_text("two")
    with pytest.raises(AnswerError, match="these files are not committed: file; commit them, or give --tag"):
        images.revision(runner, folder, None)
    assert images.revision(runner, folder, "try-1") == "try-1"


@pytest.mark.parametrize("tag", ["", "-x", "a b", "a" * 129])
def test_a_tag_that_is_none_is_refused(repository, tag):
    with pytest.raises(AnswerError, match="--tag must be letters"):
        images.revision(Recorder(), repository[0], tag)
