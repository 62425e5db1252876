"""An environment on moto with its command line, and a fake of docker that pushes to moto's registry of images."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from atelier_infra.secrets import env_files

from .cloud import Cloud, Folder, environment

# Attributes that moto does not store on the first apply: descriptions of rules that reference a group, and an unsupported one.
LOST_ON_FIRST_APPLY = {
    ("aws_vpc_security_group_ingress_rule", "description"),
    ("aws_vpc_security_group_egress_rule", "description"),
    ("aws_ecs_service", "availability_zone_rebalancing"),
}


class Environment:
    """An environment and its command line."""

    def __init__(self, folder: Folder, cloud: Cloud) -> None:
        self.folder, self.cloud = folder, cloud

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "atelier_infra", "--folder", str(self.folder.path), *arguments],
            env=environment(self.folder.endpoint) | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        with self.popen(*arguments) as process:
            out, _ = process.communicate(timeout=900)
        assert process.returncode == code, f"{arguments}: {process.returncode}\n{out[-4000:]}"
        return out

    def state(self) -> str:
        return (self.folder.path / "terraform.tfstate").read_text()

    def edit(self, old: str, new: str) -> None:
        self.folder.change("terraform.tfvars", old, new)

    def differences(self) -> set[tuple[str, str]]:
        """(resource type, attribute) of everything that another apply would change."""
        self.folder.terraform("plan", "-input=false", "-out=again", **self.password())
        plan = json.loads(self.folder.terraform("show", "-json", "again").stdout)
        differences = set()
        for resource in plan["resource_changes"]:
            change = resource["change"]
            if resource["mode"] != "managed" or change["actions"] == ["no-op"]:
                continue
            before, after = change["before"] or {}, change["after"] or {}
            names = {*before, *after} - {name for name, unknown in change["after_unknown"].items() if unknown}
            differences |= {(resource["type"], name) for name in names if before.get(name) != after.get(name)}
            differences |= {(resource["type"], action) for action in change["actions"] if action != "update"}
        return differences

    def password(self) -> dict[str, Any]:
        password = env_files.read(self.folder.path / "secrets" / "tracking.env").get("DB_PW")
        return {"db_password": password} if password else {}


def adopt_lost_resources(env: Environment) -> None:
    """Imports resources that were created during the interruption and are not in the state, as the error message says."""
    for _ in range(10):
        with env.popen("up", "--yes") as process:
            out, _ = process.communicate(timeout=900)
        if process.returncode == 0:
            return
        imports = re.findall(r"terraform import '(\S+)' (\S+)", out)
        assert "the name is taken" in out and imports, out[-3000:]
        for address, name in imports:
            env.folder.terraform("import", "-input=false", address, name)


def second_machine(env: Environment, tmp_path: Path) -> Environment:
    """A copy of the Terraform files, terraform.tfvars and the state, as with a state bucket; without secrets."""
    shutil.copytree(
        env.folder.path, tmp_path / "infra", symlinks=True, ignore=shutil.ignore_patterns("secrets", "plan", "again")
    )
    return Environment(Folder(tmp_path / "infra", env.folder.endpoint), env.cloud)


def container(env: Environment, arn: str = "atelier-tracking") -> dict[str, Any]:
    """The container definition of tracking's newest task definition, or of a given one."""
    [definition] = env.cloud.client("ecs").describe_task_definition(taskDefinition=arn)["taskDefinition"][
        "containerDefinitions"
    ]
    return definition


class Docker:
    """A fake of docker: records the commands; a push puts the tag into moto's ECR."""

    def __init__(self, cloud: Cloud) -> None:
        self.calls: list[tuple[list[str], str | None]] = []
        self.ecr = cloud.client("ecr")

    def run(self, arguments: list[str], *, description: str, stdin: str | None = None) -> str:
        self.calls.append((arguments, stdin))
        if arguments[1] == "push":
            name, _, tag = arguments[2].partition("/")[2].rpartition(":")
            layers = [
                {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": 1, "digest": f"sha256:{'0' * 64}"}
            ]
            kind = "application/vnd.docker.distribution.manifest.v2+json"
            manifest = {
                "schemaVersion": 2,
                "mediaType": kind,
                "config": {"digest": f"sha256:{tag:0>64}", "size": 1},
                "layers": layers,
            }
            self.ecr.put_image(repositoryName=name, imageManifest=json.dumps(manifest), imageTag=tag)
        return ""
