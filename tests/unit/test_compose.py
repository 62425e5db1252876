"""compose.yaml and the Dockerfiles hold what they promise; read as text, no engine is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from atelier_infer import settings as infer
from atelier_registry.config import settings as registry
from atelier_tracking import settings as tracking
from atelier_twin import ports, volume_layout
from atelier_twin.backups import database
from pydantic_settings import BaseSettings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SETTINGS = (ROOT / "docs/reference/twin-settings.md").read_text()
DOCKERFILES = sorted((ROOT / "services").glob("*/Dockerfile"))
OURS = {"tracking", "registry-api", "infer", "trainer", "first-version", "secrets", "tokens", "ports", "backup", "restore"}
JOBS = {"trainer", "tokens", "ports", "backup", "restore"}
"""What a person starts."""
MLFLOW = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY"}
UNPINNED = ("--ignore", "DL3008")  # Debian drops a package's old version when a fix for it comes
DEFAULTED = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_a_dockerfile_is_short_and_lints(file: Path) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run(
        [linter, "--no-color", "--failure-threshold", "warning", *UNPINNED, file], capture_output=True, text=True
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert len(file.read_text().splitlines()) <= 30


def test_the_linter_notices(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN cd /tmp && sudo true\n")
    linter = Path(sys.executable).with_name("hadolint")
    assert subprocess.run([linter, bad], capture_output=True).returncode == 1


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_an_image_takes_its_own_code_and_shared_code_alone(file: Path) -> None:
    folder = f"services/{file.parent.name}/"
    copied = re.findall(r"^COPY (?!--from)(.+)$", file.read_text(), re.MULTILINE)
    sources = [word for line in copied for word in line.split()[:-1] if not word.startswith("--")]
    allowed = ["pyproject.toml", "constraints.txt", "contracts/atelier_contracts", folder]
    if file.parent.name in ("registry-api", "infer"):
        allowed.append("libs/service/atelier_service")
    allowed = tuple(allowed)  # type: ignore[assignment]
    assert sources and [source for source in sources if not source.startswith(allowed)] == []


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_an_image_runs_as_the_user_that_its_secrets_belong_to(file: Path) -> None:
    [user] = re.findall(r"^USER (\d+)$", file.read_text(), re.MULTILINE)
    service = file.parent.name
    assert int(user) == (volume_layout.TRAINER_USER if service == "trainer" else volume_layout.USERS[service])


@pytest.mark.parametrize(
    ("service", "settings", "prefix"),
    [
        ("registry-api", registry.Settings, registry.PREFIX),
        ("infer", infer.Settings, infer.PREFIX),
    ],
)
def test_names_in_the_environment_are_settings(service: str, settings: type[BaseSettings], prefix: str) -> None:
    given = set(SERVICES[service]["environment"])
    fields = {prefix + name.upper(): field for name, field in settings.model_fields.items()}
    assert given <= set(fields) | MLFLOW
    assert {name for name, field in fields.items() if field.is_required()} <= given


def test_names_in_the_environment_of_tracking_are_settings() -> None:
    from_files = {f"{name}_FILE" for name in tracking.FROM_FILES}
    assert set(SERVICES["tracking"]["environment"]) <= set(tracking.NAMES) | from_files
    required = {name.upper() for name, field in tracking.Settings.model_fields.items() if field.is_required()} - {"LOGINS"}
    assert required <= {name.removesuffix("_FILE") for name in SERVICES["tracking"]["environment"]}


def test_names_of_other_services_are_known() -> None:
    known = {
        "postgres": {"POSTGRES_DB", "POSTGRES_PASSWORD_FILE", "POSTGRES_INITDB_ARGS"},
        "localstack": {"SERVICES", "BUCKET", "LS_LOG", "PYTHONDONTWRITEBYTECODE"},
        "trainer": MLFLOW | {"OMP_NUM_THREADS"},
    }
    for service, names in known.items():
        assert set(SERVICES[service]["environment"]) <= names


def test_the_jobs_read_what_they_are_given() -> None:
    code = "".join(file.read_text() for file in (ROOT / "twin/atelier_twin").glob("*.py"))
    for service in ("secrets", "first-version"):
        names = (
            set(SERVICES[service]["environment"])
            - MLFLOW
            - {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "HF_HUB_OFFLINE", "OMP_NUM_THREADS"}
        )
        assert [name for name in names if f'"{name}"' not in code] == []


def test_no_service_holds_a_secret_in_its_environment() -> None:
    values = {name: value for service in SERVICES.values() for name, value in service.get("environment", {}).items()}
    secret = {
        name: value for name, value in values.items() if re.search("PASSWORD|SECRET|HTPASSWD|DB_PW|TOKEN|ACCESS_KEY", name)
    }
    assert secret
    assert {name for name, value in secret.items() if not value.startswith("/secrets/") and not value.endswith(":-}")} == set()


@pytest.mark.parametrize("service", sorted(OURS))
def test_our_containers_give_up_what_they_do_not_need(service: str) -> None:
    told = SERVICES[service]
    assert told["cap_drop"] == ["ALL"] and told["read_only"] is True
    assert "no-new-privileges:true" in told["security_opt"]
    assert "privileged" not in told


def test_ports_are_open_to_this_machine_alone_unless_asked() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"tracking", "registry-api", "infer", "localstack"}
    pattern = re.compile(r"\$\{(TWIN|S3)_ADDRESS:-127\.0\.0\.1\}:\$\{")
    assert all(pattern.match(port) for opened in published.values() for port in opened)


def test_s3_is_opened_by_a_setting_of_its_own() -> None:
    """LocalStack knows no login: who opens the services to a network does not open the objects with them."""
    assert SERVICES["localstack"]["ports"] == ["${S3_ADDRESS:-127.0.0.1}:${S3_PORT:-4566}:4566"]
    others = {name: service for name, service in SERVICES.items() if name != "localstack"}
    assert ":4566" not in str([service.get("ports") for service in others.values()])


def test_the_ports_that_are_checked_are_those_that_are_opened() -> None:
    opened = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert opened.keys() == ports.PUBLISHED.keys()
    for name, (address, port) in ports.PUBLISHED.items():
        [line] = opened[name]
        assert [setting for setting, _ in DEFAULTED.findall(line)] == [address, port]
        assert {address, port} <= SERVICES["ports"]["environment"].keys()


def test_lasting_services_have_a_limit_and_come_back() -> None:
    for name in ("postgres", "localstack", "tracking", "registry-api", "infer"):
        assert SERVICES[name]["restart"] == "unless-stopped"
        assert SERVICES[name]["deploy"]["resources"]["limits"].keys() >= {"memory", "pids"}


def test_up_does_not_start_jobs_that_a_person_starts() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" in service} == JOBS


def test_only_those_that_need_them_reach_the_database_and_the_objects() -> None:
    reached = {
        name: service.get("networks", ["default"]) for name, service in SERVICES.items() if "network_mode" not in service
    }
    copies = {"backup", "restore"}
    on_database = {name for name, networks in reached.items() if "database" in networks}
    assert on_database == {"postgres", "tracking", "registry-api"} | copies
    assert {name for name, networks in reached.items() if "objects" in networks} == {"localstack", "tracking"} | copies
    assert {name for name, networks in reached.items() if networks == ["default"]} == {"first-version", "trainer"}


def test_infer_reaches_tracking_and_registry_api_and_nothing_outside() -> None:
    among = {name for name, service in SERVICES.items() if "serving" in service.get("networks", [])}
    assert SERVICES["infer"]["networks"] == ["serving"]
    assert among == {"infer", "tracking", "registry-api"}
    assert COMPOSE["networks"]["serving"]["driver_opts"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}


def test_the_token_group_is_the_one_that_owns_the_file() -> None:
    for name in ("registry-api", "infer"):
        assert SERVICES[name]["group_add"] == [str(volume_layout.TOKENS_GROUP)]


def test_the_reference_has_every_setting_of_the_twin() -> None:
    text = (ROOT / "compose.yaml").read_text() + (ROOT / "compose.gpu.yaml").read_text()
    used = dict(DEFAULTED.findall(text))
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", SETTINGS, re.MULTILINE))
    assert rows == {name: f"`{default}`" if default else "none" for name, default in used.items()}


def test_a_backup_is_read_by_no_service_and_written_by_one_job() -> None:
    mounts = {name: [v for v in service.get("volumes", []) if ":/backups" in v] for name, service in SERVICES.items()}
    assert {name: each[0].rpartition("/backups")[2] for name, each in mounts.items() if each} == {
        "backup": "",
        "restore": ":ro",
    }


def test_the_server_finds_the_password_that_its_own_pg_dump_needs() -> None:
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD_FILE"] == database.SUPERUSER_PASSWORD_FILE
    assert database.PG_DUMP_OPTIONS.endswith(f"--dbname={SERVICES['postgres']['environment']['POSTGRES_DB']}")
