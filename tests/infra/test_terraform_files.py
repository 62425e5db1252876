"""The Terraform files themselves: format, validity, Terraform's own tests, checkov."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .cloud import Folder
from .conftest import INFRA

pytestmark = [pytest.mark.infra, pytest.mark.timeout(900)]


def test_files_are_formatted(terraform_installed: None) -> None:
    folder = Folder(INFRA, "http://127.0.0.1:9")
    assert folder.terraform("fmt", "-check", "-recursive", "-diff").stdout == ""


def test_the_configuration_is_valid_without_an_account(folder: Folder) -> None:
    assert json.loads(folder.terraform("validate", "-json").stdout)["diagnostics"] == []


def test_an_invalid_file_is_reported(folder: Folder) -> None:
    folder.change("images.tf", "scan_on_push", "scan_on_pull")
    assert not json.loads(folder.terraform("validate", "-json", check=False).stdout)["valid"]


def test_terraform_tests_pass(folder: Folder) -> None:
    process = folder.terraform("test", "-no-color", check=False)
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-4000:]
    assert re.search(r"Success! (\d+) passed, 0 failed", process.stdout)


def test_terraform_tests_fail_on_a_broken_rule(folder: Folder) -> None:
    for file in (folder.path / "tests").iterdir():
        if file.name != "defaults.tftest.hcl":
            file.unlink()
    text = (folder.path / "tests" / "defaults.tftest.hcl").read_text()
    (folder.path / "tests" / "defaults.tftest.hcl").write_text(text[: text.index('run "env_files_have')])
    folder.change("database.tf", "storage_encrypted               = true", "storage_encrypted = false")
    process = folder.terraform("test", "-no-color", check=False)
    assert (
        process.returncode == 1 and "the database must be private, encrypted and protected" in process.stdout + process.stderr
    )


def test_a_size_that_fargate_does_not_offer_is_refused(folder: Folder) -> None:
    (folder.path / "terraform.tfvars.json").write_text(
        json.dumps(
            {
                "region": "eu-central-1",
                "allowed_cidrs": ["203.0.113.7/32"],
                "sizes": {"tracking": {"cpu": 256, "memory_mib": 4096}},
            }
        )
    )
    process = folder.terraform("plan", "-input=false", "-no-color", check=False)
    assert process.returncode == 1
    assert "received 256 CPU units with 4096 MiB" in " ".join(process.stderr.replace("│", " ").split())


def scan(checkov: Path, folder: Path) -> tuple[int, dict[str, Any]]:
    process = subprocess.run(
        [str(checkov), "-d", str(folder), "--framework", "terraform", "--skip-download", "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return process.returncode, json.loads(process.stdout)["results"]


def test_checkov_passes_and_every_exception_is_used_and_has_a_reason(checkov: Path, initialised: Path) -> None:
    code, results = scan(checkov, initialised)
    assert [f"{each['check_id']} {each['resource']}" for each in results["failed_checks"]] == []
    assert code == 0
    written = [
        (file.name, *found)
        for file in initialised.rglob("*.tf")
        if ".terraform" not in file.parts
        for found in re.findall(r"checkov:skip=(\w+): *(.*)", file.read_text())
    ]
    used = {(Path(each["file_path"]).name, each["check_id"]) for each in results["skipped_checks"]}
    assert {(file, check) for file, check, _ in written} == used
    assert [each for each in written if len(each[2].split()) < 2] == []


def test_checkov_fails_on_a_broken_rule(checkov: Path, folder: Folder) -> None:
    folder.change("storage.tf", "block_public_policy     = true", "block_public_policy = false")
    folder.change("database.tf", "storage_encrypted               = true", "storage_encrypted = false")
    code, results = scan(checkov, folder.path)
    assert code == 1
    assert {"CKV_AWS_16", "CKV_AWS_54"} <= {each["check_id"] for each in results["failed_checks"]}
