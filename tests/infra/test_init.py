"""`init`: answers, checks and written files."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from atelier_infra import __main__ as cli_main
from atelier_infra.errors import InputError
from atelier_infra.terraform import tfvars

RIGHT = ["--region", "eu-central-1", "--allow", "203.0.113.7", "--user", "ana"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "main.tf").write_text("")
    return tmp_path


@pytest.fixture
def init(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setenv("COLUMNS", "200")

    def run(*flags: str) -> tuple[int, str, str]:
        code = cli_main.main(["--folder", str(folder), "init", *flags])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_init_writes_tfvars_and_prints_no_password(init: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    code, out, _ = init(*RIGHT)
    assert code == 0
    assert (folder / "terraform.tfvars").read_text().splitlines()[1:] == [
        'name = "atelier"',
        'region = "eu-central-1"',
        'services = ["tracking"]',
        'secrets = "secrets-manager"',
        'allowed_cidrs = ["203.0.113.7/32"]',
    ]
    for line in (folder / "secrets" / "logins").read_text().splitlines()[1:]:
        assert line.split()[3] not in out


def test_all_missing_answers_are_listed(init: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    code, _, err = init()
    assert code == 1
    assert "without a terminal init needs all answers as options; missing: --region, --allow, --user" in err
    assert not (folder / "terraform.tfvars").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--region", "eu-centrall-1"], "--region must be an AWS region, such as eu-central-1"),
        (
            ["--allow", "203.0.113.7/8"],
            "--allow must be an IPv4 address or range, such as 203.0.113.7/32; received '203.0.113.7/8'",
        ),
        (["--allow", "everybody"], "received 'everybody'"),
        (["--user", "a:b"], "--user must be letters, digits"),
        (["--user", "infer"], "not a service name; received 'infer'"),
        (["--name", "My_Stack"], "--name must be 3 to 19 lower-case letters"),
        (["--start", "08:00"], "--start and --stop must be given together; received only 08:00"),
        (["--domain", "draw.example.org"], "--domain needs exactly one of --zone-id and --certificate-arn"),
        (["--zone-id", "Z1"], "and they need --domain"),
        (
            ["--vpc", "vpc-1", "--public-subnet", "subnet-1"],
            "--vpc needs at least one --public-subnet and two --private-subnet",
        ),
        (["--private-subnet", "subnet-1"], "and they need --vpc"),
    ],
)
def test_an_invalid_answer_is_refused_with_rule_and_value(
    init: Callable[..., tuple[int, str, str]], folder: Path, flags: list[str], message: str
) -> None:
    code, _, err = init(*RIGHT, *flags)
    assert code == 1
    assert message in err
    assert not (folder / "terraform.tfvars").exists()
    assert not (folder / "secrets").exists()


def test_an_existing_environment_is_not_overwritten(init: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    init(*RIGHT)
    kept = (folder / "secrets" / "tracking.env").read_text()
    code, _, err = init(*RIGHT, "--name", "other")
    assert (code, "exists; edit it, or overwrite it with --replace" in err) == (1, True)
    assert init(*RIGHT, "--name", "other", "--replace")[0] == 0
    assert tfvars.read_string(folder, "name") == "other"
    assert (folder / "secrets" / "tracking.env").read_text() == kept


def test_a_dry_run_writes_nothing(init: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    code, out, _ = init(*RIGHT, "--dry-run")
    assert (code, 'region = "eu-central-1"' in out) == (0, True)
    assert [file.name for file in folder.iterdir()] == ["main.tf"]


def test_open_access_without_tls_prints_a_warning(init: Callable[..., tuple[int, str, str]]) -> None:
    assert "passwords will cross the internet in clear text" in init(*RIGHT, "--allow", "0.0.0.0/0")[1]


def test_template_sequences_are_escaped() -> None:
    answers = {
        "name": "a",
        "region": "r",
        "service": [],
        "secrets": "env-file",
        "allow": ["${x}"],
        "vpc": None,
        "domain": None,
        "start": None,
    }
    written = tfvars.format_tfvars(type("Answers", (), answers)())
    assert 'allowed_cidrs = ["$${x}"]' in written


def test_commands_before_init_name_init(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_main.main(["--folder", str(folder), "plan"]) == 1
    assert "run `python -m atelier_infra init`" in capsys.readouterr().err


def test_a_folder_without_terraform_files_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "terraform.tfvars").write_text('region = "eu-central-1"\n')
    assert cli_main.main(["--folder", str(tmp_path), "plan"]) == 1
    assert "--folder must be the folder of Atelier's main.tf" in capsys.readouterr().err


def test_services_are_read_from_tfvars(folder: Path, init: Callable[..., tuple[int, str, str]]) -> None:
    init(*RIGHT, "--service", "infer", "--service", "registry-api")
    assert tfvars.read_services(folder) == ["tracking", "infer", "registry-api"]
    (folder / "terraform.tfvars").unlink()
    with pytest.raises(InputError, match="does not exist yet"):
        tfvars.read_string(folder, "region")


COMMANDS = ("init", "plan", "up", "push", "deploy", "start", "stop", "url", "status", "logs", "destroy")
COMMANDS += ("upgrade", "backup", "restore", "gc")  # type: ignore[assignment]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_a_dry_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli_main.main([name, "--help"])
    assert (exit_info.value.code, "--dry-run" in capsys.readouterr().out) == (0, True)


def test_an_unknown_command_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli_main.main(["launch"])
    listed = capsys.readouterr().err
    assert (exit_info.value.code, [name for name in COMMANDS if name not in listed]) == (2, [])
