"""Content of the images: their own packages and dependencies only, no root user, no training libraries."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ..containers import docker

pytestmark = [pytest.mark.twin, pytest.mark.timeout(600)]

PACKAGES = {"trainer": "atelier_trainer", "registry-api": "atelier_registry", "infer": "atelier_infer"}
TRAINING = ["torch", "diffusers", "transformers", "peft", "accelerate", "ray", "datasets", "onnxscript"]
INSPECT_SCRIPT = """
import importlib.util, json, os, pathlib, sys
names = json.loads(sys.argv[1])
packages = sorted({path.name for path in pathlib.Path("/").glob("[!ps]*/**/atelier_*") if path.is_dir()})
print(json.dumps({
    "installed": [name for name in names if importlib.util.find_spec(name)],
    "packages": packages,
    "user": os.getuid(),
    "writable": [str(path) for path in map(pathlib.Path, sys.path) if path.is_dir() and os.access(path, os.W_OK)],
}))
"""


def inspect_image(service: str) -> dict[str, Any]:
    names = json.dumps([*TRAINING, "onnxruntime", "pytest", "pip"])
    command = [
        "run",
        "--rm",
        "--network=none",
        "--workdir=/",
        "--entrypoint=python",
        f"atelier/{service}:dev",
        "-c",
        INSPECT_SCRIPT,
        names,
    ]
    return json.loads(docker(*command).stdout)


@pytest.mark.parametrize("service", PACKAGES)
def test_an_image_has_its_own_and_the_shared_packages_only(service: Any) -> None:
    content = inspect_image(service)
    shared = ["atelier_contracts"] + (["atelier_service"] if service in ("registry-api", "infer") else [])
    assert content["packages"] == sorted([*shared, PACKAGES[service]])
    assert content["user"] >= 10000
    assert content["writable"] == []


def test_training_libraries_are_in_the_trainer_only() -> None:
    allowed = {"registry-api": [], "infer": ["onnxruntime"]}
    assert {service: inspect_image(service)["installed"] for service in allowed} == allowed
    assert set(TRAINING[:5]) <= set(inspect_image("trainer")["installed"])


@pytest.mark.parametrize("service", ["registry-api", "infer"])
def test_a_service_without_settings_lists_the_missing_ones(service: Any) -> None:
    process = docker("run", "--rm", "--network=none", f"atelier/{service}:dev", check=False)
    assert process.returncode == 2
    assert "TOKEN_FILE" in process.stderr and "TRACKING_URI" in process.stderr


def test_compose_files_are_valid() -> None:
    docker("compose", "--profile", "trainer", "config", "--quiet")
    docker("compose", "--file", "compose.yaml", "--file", "compose.gpu.yaml", "--profile", "trainer", "config", "--quiet")


def test_images_contain_no_secrets() -> None:
    for service in PACKAGES:
        history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", f"atelier/{service}:dev").stdout
        environment = docker("inspect", "--format", "{{json .Config.Env}}", f"atelier/{service}:dev").stdout
        assert not [word for word in ("PASSWORD", "SECRET", "TOKEN=") if word in history.upper() + environment.upper()]
