"""Errors of AWS, terraform, docker and git become one message with the remedy."""

from __future__ import annotations

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

from .stubs import StubEnvironment


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ExpiredToken", "the AWS session has expired"),
        ("InvalidClientTokenId", "AWS does not accept these credentials in region eu-central-1"),
        ("AccessDenied", "these credentials may not call GetCallerIdentity"),
        ("Throttling", "AWS refused GetCallerIdentity in region eu-central-1: slow down (Throttling)"),
    ],
)
def test_a_refused_call_is_explained(monkeypatch: pytest.MonkeyPatch, code: str, message: str) -> None:
    env = StubEnvironment(monkeypatch)
    env.stub("sts").add_client_error("get_caller_identity", code, "slow down")
    with pytest.raises(AwsError) as caught:
        env.aws.account()
    assert str(caught.value).startswith(message)


def without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


def test_missing_credentials_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_credentials(monkeypatch, tmp_path)
    with pytest.raises(AwsError, match=r"no complete AWS credentials were found .* log in first: `aws sso login`"):
        Aws("eu-central-1").account()


def test_a_missing_profile_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_credentials(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(AwsError, match="AWS_PROFILE must name a profile"):
        Aws("eu-central-1").account()


def test_an_unreachable_region_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_credentials(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the port that discards: nothing listens
    with pytest.raises(AwsError, match=r"AWS does not respond in region eu-middle-1: .* check the region"):
        Aws("eu-middle-1").account()


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("No valid credential sources found: no EC2 IMDS role found", "log in first"),
        ("creating S3 Bucket (x): BucketAlreadyExists: The requested bucket name is not available", "If the resource is yours"),
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
def test_known_failures_of_terraform_have_a_remedy(output: str, remedy: str) -> None:
    message = runner.error_message("terraform apply", output)
    assert output in message and remedy in message.splitlines()[-1]


def test_an_unknown_failure_has_no_remedy() -> None:
    assert runner.error_message("terraform apply", "a surprise") == "terraform apply failed:\n    a surprise"


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="docker-is-not-here must be on the PATH and was not found; install it"):
        SubprocessRunner(Console(quiet=True), tmp_path).run(["docker-is-not-here"], description="looking")


def test_missing_terraform_names_the_download_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "main.tf").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ToolError,
        match=r"terraform must be on the PATH and was not found; install it from https://developer.hashicorp.com/terraform/install",
    ):
        runner.Terraform(tmp_path, Console(quiet=True), {}).init()


def test_a_failed_program_shows_its_last_lines(tmp_path: Path) -> None:
    code = "import sys; [print('line', i) for i in range(30)]; sys.exit(3)"
    with pytest.raises(ToolError) as caught:
        SubprocessRunner(Console(quiet=True), tmp_path).run([sys.executable, "-c", code], description="running")
    assert "failed with exit code 3" in str(caught.value)
    assert "line 29" in str(caught.value) and "line 9\n" not in str(caught.value)


def test_secrets_are_passed_on_standard_input(tmp_path: Path) -> None:
    code = "import sys; print(len(sys.stdin.read()), sys.argv)"
    output = SubprocessRunner(Console(quiet=True), tmp_path).run(
        [sys.executable, "-c", code], description="running", stdin="secret"
    )
    assert output.startswith("6 ") and "secret" not in output


def test_an_error_prints_one_message_and_no_traceback(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "atelier_infra", "--folder", str(tmp_path), "status"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stdout, "Traceback" in process.stderr) == (1, "", False)
    assert process.stderr.startswith("error: ") and "run `python -m atelier_infra init`" in process.stderr


def test_a_taken_name_is_reported_with_the_import_command() -> None:
    summary = "creating S3 Bucket (atelier-artifacts-1): BucketAlreadyOwnedByYou"
    message = runner._format_diagnostic({"summary": summary, "detail": "", "address": 'aws_s3_bucket.this["artifacts"]'})
    assert message.endswith("""terraform import 'aws_s3_bucket.this["artifacts"]' atelier-artifacts-1""")
    assert runner._format_diagnostic({"summary": "no such host", "address": "aws_vpc.this[0]"}) == "no such host"


def test_tests_that_need_terraform_fail_without_it(tmp_path: Path) -> None:
    here = Path(__file__).parent
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            str(here / "test_terraform_files.py"),
            "-m",
            "infra",
            "-k",
            "test_files_are_formatted",
            "-p",
            "no:cacheprovider",
        ],
        cwd=here.parents[1],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert "need terraform 1.11 or later: install it from https://developer.hashicorp.com/terraform/install" in process.stdout
    assert "1 error" in process.stdout and "skipped" not in process.stdout
