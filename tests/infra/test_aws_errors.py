"""What goes wrong at AWS becomes one clear message."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from atelier_infra.aws.client import Aws
from atelier_infra.errors import AwsError, ToolError
from atelier_infra.subprocess_runner import SubprocessRunner
from atelier_infra.terraform import runner
from rich.console import Console

from .stubs import Scene


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ExpiredToken", "the AWS session has expired"),
        ("InvalidClientTokenId", "AWS does not know these credentials in region eu-central-1"),
        ("AccessDenied", "these credentials may not call GetCallerIdentity"),
        ("Throttling", "AWS refused GetCallerIdentity in region eu-central-1: said so (Throttling)"),
    ],
)
def test_a_refusal_says_what_to_do(monkeypatch, code, message):
    scene = Scene(monkeypatch)
    scene.stub("sts").add_client_error("get_caller_identity", code, "said so")
    with pytest.raises(AwsError) as caught:
        scene.aws.account()
    assert str(caught.value).startswith(message)


def alone(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


def test_no_credentials(monkeypatch, tmp_path):
    alone(monkeypatch, tmp_path)
    with pytest.raises(AwsError, match=r"no complete AWS credentials were found .* log in first: `aws sso login`"):
        Aws("eu-central-1").account()


def test_a_profile_that_does_not_exist(monkeypatch, tmp_path):
    alone(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(AwsError, match="AWS_PROFILE must name a profile"):
        Aws("eu-central-1").account()


def test_a_region_that_does_not_answer(monkeypatch, tmp_path):
    alone(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the port that discards: nothing listens
    with pytest.raises(AwsError, match=r"AWS does not answer in region eu-middle-1: .* check the region"):
        Aws("eu-middle-1").account()


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("No valid credential sources found: no EC2 IMDS role found", "log in first"),
        ("creating S3 Bucket (x): BucketAlreadyExists: The requested bucket name is not available", "If it is yours"),
        (
            "RepositoryAlreadyExistsException: The repository with name 'atelier/tracking' already exists",
            "let Terraform adopt it",
        ),
        (
            "InvalidRequestException: a secret with this name is already scheduled for deletion",
            "restore-secret",
        ),
        ("Error acquiring the state lock", "terraform force-unlock"),
        ("dial tcp: lookup ec2.eu-middle-1.amazonaws.com: no such host", "check the region"),
        ("UnauthorizedOperation: You are not authorized to perform this operation", "lack a permission"),
    ],
)
def test_terraforms_failures_are_explained(said, advice):
    message = runner.error_message("terraform apply", said)
    assert said in message and advice in message.splitlines()[-1]


def test_an_unknown_failure_is_not_explained_away():
    assert runner.error_message("terraform apply", "a surprise") == "terraform apply failed:\n    a surprise"


def test_a_program_that_is_missing_is_named_with_its_place(tmp_path):
    with pytest.raises(ToolError, match="docker-is-not-here is needed and was not found"):
        SubprocessRunner(Console(quiet=True), tmp_path).run(["docker-is-not-here"], said="looking")


def test_without_terraform_a_user_is_told_where_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "main.tf").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ToolError, match=r"terraform is needed and was not found; get it at https://developer.hashicorp.com/terraform/install"
    ):
        runner.Terraform(tmp_path, Console(quiet=True), {}).init()


def test_a_program_that_fails_shows_its_last_lines(tmp_path):
    code = "import sys; [print('line', i) for i in range(30)]; sys.exit(3)"
    with pytest.raises(ToolError) as caught:
        SubprocessRunner(Console(quiet=True), tmp_path).run([sys.executable, "-c", code], said="running")
    assert "failed with exit code 3" in str(caught.value)
    assert "line 29" in str(caught.value) and "line 9\n" not in str(caught.value)


def test_secrets_go_by_standard_input(tmp_path):
    code = "import sys; print(len(sys.stdin.read()), sys.argv)"
    said = SubprocessRunner(Console(quiet=True), tmp_path).run([sys.executable, "-c", code], said="running", stdin="secret")
    assert said.startswith("6 ") and "secret" not in said


def test_an_error_ends_the_program_with_one_message(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "atelier_infra", "--folder", str(tmp_path), "status"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (1, "", False)
    assert done.stderr.startswith("error: ") and "run `python -m atelier_infra init`" in done.stderr


def test_a_name_that_is_taken_comes_with_the_way_to_adopt_it():
    said = "creating S3 Bucket (atelier-artifacts-1): BucketAlreadyOwnedByYou"
    told = runner._format_diagnostic({"summary": said, "detail": "", "address": 'aws_s3_bucket.this["artifacts"]'})
    assert told.endswith("""terraform import 'aws_s3_bucket.this["artifacts"]' atelier-artifacts-1""")
    assert runner._format_diagnostic({"summary": "no such host", "address": "aws_vpc.this[0]"}) == "no such host"


def test_tests_that_need_terraform_fail_without_it_and_say_where_to_get_it(tmp_path):
    here = Path(__file__).parent
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            str(here / "test_plan.py"),
            "-m",
            "infra",
            "-k",
            "test_form",
            "-p",
            "no:cacheprovider",
        ],
        cwd=here.parents[1],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "need terraform 1.11 or later: get it at https://developer.hashicorp.com/terraform/install" in done.stdout
    assert "1 error" in done.stdout and "skipped" not in done.stdout
