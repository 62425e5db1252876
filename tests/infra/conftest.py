"""Copies of the Terraform files, and moto in its own process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cloud import Cloud, Folder
from .deployment import Environment
from .plan_variants import Plans, make_plans

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"


@pytest.fixture(autouse=True)
def no_real_account(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hides the developer's AWS credentials and settings from the tests."""
    missing = tmp_path_factory.getbasetemp() / "no-such-file"
    for name in [name for name in os.environ if name.startswith(("AWS_", "TF_"))]:
        if name != "AWS_CA_BUNDLE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(missing))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(missing))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def terraform_installed() -> None:
    """Fails, and does not skip, without terraform."""
    if not shutil.which("terraform"):
        pytest.fail(
            "the selected tests need terraform 1.11 or later: "
            "install it from https://developer.hashicorp.com/terraform/install",
            pytrace=False,
        )


@pytest.fixture(scope="session")
def checkov() -> Path:
    """checkov in its own virtual environment, because it pins other versions of boto3; `make test-infra` creates it."""
    program = Path(sys.prefix) / "checkov" / "bin" / "checkov"
    if not program.exists():
        pytest.fail(f"the selected tests need {program}: run `make test-infra`", pytrace=False)
    return program


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a moto server for the session."""
    with socket.socket() as free_port:
        free_port.bind(("127.0.0.1", 0))
        port = free_port.getsockname()[1]
    log = tmp_path_factory.mktemp("moto") / "log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("moto_server.py")), str(port)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment | {"MOTO_ACM_VALIDATION_WAIT": "1"},
        )
        address = f"http://127.0.0.1:{port}"
        try:
            _wait_for(address, process, log)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/moto-api/data.json", timeout=5).close()
            return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.5)
    pytest.fail(f"moto did not start:\n{log.read_text()[-2000:]}", pytrace=False)


@pytest.fixture(scope="session")
def initialised(terraform_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the Terraform files with the provider installed; tests copy it."""
    folder = tmp_path_factory.mktemp("terraform") / "infra"
    ignore = shutil.ignore_patterns("atelier_infra", ".terraform*", "terraform.tfstate*", "*.tfvars", "secrets", "backend.tf")
    shutil.copytree(INFRA, folder, ignore=ignore)
    Folder(folder, "http://127.0.0.1:9").terraform("init", "-input=false", "-backend=false")
    return folder


@pytest.fixture
def folder(initialised: Path, moto: str, tmp_path: Path) -> Folder:
    """A fresh copy of the Terraform files, ready to plan against moto."""
    path = tmp_path / "infra"
    shutil.copytree(initialised, path, symlinks=True)
    return Folder(path, moto)


@pytest.fixture
def cloud(moto: str) -> Iterator[Cloud]:
    """moto, empty before and after the test."""
    cloud = Cloud(moto)
    cloud.reset()
    yield cloud
    cloud.reset()


@pytest.fixture(scope="module")
def env(initialised: Path, moto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    folder = Folder(tmp_path_factory.mktemp("path") / "infra", moto)
    shutil.copytree(initialised, folder.path, symlinks=True)
    cloud = Cloud(moto)
    cloud.reset()
    yield Environment(folder, cloud)
    cloud.reset()


@pytest.fixture(scope="session")
def plans(initialised: Path, moto: str, tmp_path_factory: pytest.TempPathFactory) -> Plans:
    return make_plans(initialised, moto, tmp_path_factory)
