"""What is in the images, seen from inside: own code and own dependencies, no login as root, nothing that trains."""

from __future__ import annotations

import json

import pytest

from ..containers import docker

pytestmark = [pytest.mark.twin, pytest.mark.timeout(600)]

PACKAGES = {"trainer": "atelier_trainer", "registry-api": "atelier_registry", "infer": "atelier_infer"}
TRAINING = ["torch", "diffusers", "transformers", "peft", "accelerate", "ray", "datasets", "onnxscript"]
LOOK = """
import importlib.util, json, os, pathlib, sys
names = json.loads(sys.argv[1])
ours = sorted({path.name for path in pathlib.Path("/").glob("[!ps]*/**/atelier_*") if path.is_dir()})
print(json.dumps({
    "found": [name for name in names if importlib.util.find_spec(name)],
    "ours": ours,
    "user": os.getuid(),
    "writable": [str(path) for path in map(pathlib.Path, sys.path) if path.is_dir() and os.access(path, os.W_OK)],
}))
"""


def look(service: str) -> dict[str, object]:
    names = json.dumps([*TRAINING, "onnxruntime", "pytest", "pip"])
    command = [
        "run",
        "--rm",
        "--network=none",
        "--workdir=/",
        "--entrypoint=python",
        f"atelier/{service}:dev",
        "-c",
        LOOK,
        names,
    ]
    return json.loads(docker(*command).stdout)


@pytest.mark.parametrize("service", PACKAGES)
def test_own_code_and_the_contracts_alone(service):
    seen = look(service)
    assert seen["ours"] == sorted(["atelier_contracts", PACKAGES[service]])
    assert seen["user"] >= 10000
    assert seen["writable"] == []


def test_nothing_that_trains_outside_the_trainer():
    allowed = {"registry-api": [], "infer": ["onnxruntime"]}
    assert {service: look(service)["found"] for service in allowed} == allowed
    assert set(TRAINING[:5]) <= set(look("trainer")["found"])


@pytest.mark.parametrize("service", ["registry-api", "infer"])
def test_a_service_without_settings_says_what_is_missing(service):
    ended = docker("run", "--rm", "--network=none", f"atelier/{service}:dev", check=False)
    assert ended.returncode == 2
    assert "TOKEN_FILE" in ended.stderr and "TRACKING_URI" in ended.stderr


def test_compose_takes_its_files():
    docker("compose", "--profile", "trainer", "config", "--quiet")
    docker("compose", "--file", "compose.yaml", "--file", "compose.gpu.yaml", "--profile", "trainer", "config", "--quiet")


def test_no_secret_is_in_an_image():
    for service in PACKAGES:
        history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", f"atelier/{service}:dev").stdout
        environment = docker("inspect", "--format", "{{json .Config.Env}}", f"atelier/{service}:dev").stdout
        assert not [word for word in ("PASSWORD", "SECRET", "TOKEN=") if word in history.upper() + environment.upper()]
