"""Terraform in a folder and clients of moto."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import boto3

REGION = "eu-central-1"
REQUIRED_VARIABLES = {"region": REGION, "allowed_cidrs": ["203.0.113.7/32"]}


def environment(endpoint: str) -> dict[str, str]:
    """Environment of a process that uses moto as AWS and none of this machine's AWS settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_"))}
    return inherited | {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "COLUMNS": "200",
    }


class Folder:
    """A copy of the Terraform files."""

    def __init__(self, path: Path, endpoint: str) -> None:
        self.path, self.endpoint = path, endpoint

    def terraform(self, *arguments: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        process = subprocess.run(
            ["terraform", *arguments],
            cwd=self.path,
            env=environment(self.endpoint) | {f"TF_VAR_{name}": value for name, value in variables.items()},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert not check or process.returncode == 0, (
            f"terraform {' '.join(arguments)}\n{process.stdout[-3000:]}\n{process.stderr[-3000:]}"
        )
        return process

    def plan(self, *, db_password: str = "", **variables: Any) -> dict[str, Any]:
        """The plan as terraform's JSON; the plan file is `plan` in the folder."""
        (self.path / "terraform.tfvars.json").write_text(json.dumps(REQUIRED_VARIABLES | variables))
        password: dict[str, Any] = {"db_password": db_password} if db_password else {}
        self.terraform("plan", "-input=false", "-out=plan", **password)
        shown: dict[str, Any] = json.loads(self.terraform("show", "-json", "plan").stdout)
        return shown

    def change(self, file: str, old: str, new: str) -> None:
        """Replaces text, which must exist."""
        path = self.path / file
        text = path.read_text()
        assert old in text, f"{file} does not contain {old!r}"
        path.write_text(text.replace(old, new))


class Cloud:
    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def client(self, service: str) -> Any:
        return boto3.client(
            service, endpoint_url=self.endpoint, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test"
        )

    def reset(self) -> None:
        """Deletes all of moto's state."""
        request = urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")
        urllib.request.urlopen(request, timeout=60).close()
