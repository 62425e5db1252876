"""Two operators on two machines share one environment without overwriting each other's secrets."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws
from atelier_infra.errors import InputError
from atelier_infra.secrets import credentials, database_password, env_files, sync_record
from atelier_infra.secrets.remote_secrets import EnvFileStore, SecretsManagerStore, SecretStore
from atelier_infra.secrets.sync_secrets import SecretsSync
from rich.console import Console

from .cloud import REGION, Cloud, environment
from .stubs import service

pytestmark = [pytest.mark.infra, pytest.mark.timeout(300)]

SERVICES = ["tracking", "registry-api"]
BUCKET = "atelier-config-123456789012-eu-central-1"
NAMES = {
    "tracking": ["HTPASSWD", "ROLES"],
    "registry-api": ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "ATELIER_TOKENS"],
}


class Machine:
    """The folder of secrets on one operator's machine."""

    def __init__(self, folder: Path, cloud: Cloud, mode: str) -> None:
        self.folder, self.mode, self.output = folder, mode, io.StringIO()
        console = Console(file=self.output, width=200)
        aws = Aws(REGION)
        changes = ChangeRunner(console, REGION, dry_run=False)
        stores: list[SecretStore] = [
            SecretsManagerStore("atelier", aws, changes),
            EnvFileStore(BUCKET, aws, changes),
        ]
        self.remote, self.previous = stores if mode == "secrets-manager" else stores[::-1]
        self.console = console

    def init(self, services: Any = SERVICES) -> None:
        credentials.create_missing(self.folder, services, "ana", env_file=self.mode == "env-file")

    def up(self, services: Any = SERVICES, *, overwrite: bool = False) -> None:
        sync = SecretsSync(self.folder, self.remote, self.console, previous=self.previous, overwrite=overwrite)
        sync.adopt(services, dry_run=False)
        self.init(services)
        more = {"tracking": ["DB_PW"], "registry-api": ["PGPASSWORD"]} if self.mode == "env-file" else {}
        secret = {} if self.mode == "secrets-manager" else {"secret": None}
        sync.sync({each: service(each, secret_names=NAMES[each] + more.get(each, []), **secret) for each in services})

    def files(self) -> dict[str, dict[str, str]]:
        return {each: env_files.read(self.folder / f"{each}.env") for each in SERVICES}

    def edit(self, name: str, variable: str, value: str) -> None:
        path = self.folder / f"{name}.env"
        env_files.write(path, env_files.read(path) | {variable: value})


@pytest.fixture(params=["secrets-manager", "env-file"])
def machine(request: pytest.FixtureRequest, tmp_path: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Creates machines; the environment exists and has no secrets yet."""
    for name, value in environment(cloud.endpoint).items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    if request.param == "env-file":
        cloud.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    else:
        for name in SERVICES:
            cloud.client("secretsmanager").create_secret(Name=f"atelier/{name}")
    return lambda name: Machine(tmp_path / name, cloud, request.param)


def remote_secrets(machine: Machine) -> dict[str, dict[str, str] | None]:
    return {each: machine.remote.read(each) for each in SERVICES}


def test_a_second_machine_adopts_existing_secrets(machine: Any) -> None:
    first, second = machine("first"), machine("second")
    first.up()
    before = remote_secrets(first)
    second.up()
    assert remote_secrets(first) == before
    shared = {name: {key: values[key] for key in before[name]} for name, values in second.files().items()}
    assert shared == before
    assert "adopted the secrets" in second.output.getvalue()
    assert not (second.folder / "logins").exists()


def test_credentials_created_on_a_second_machine_are_replaced(machine: Any) -> None:
    first, second = machine("first"), machine("second")
    first.up()
    before = remote_secrets(first)
    second.init()
    assert remote_secrets(first) == before != second.files()
    second.up()
    assert remote_secrets(first) == before
    hashes = dict(line.split(":") for line in second.files()["tracking"]["HTPASSWD"].split(r"\n"))
    for line in (second.folder / "logins").read_text().splitlines()[1:]:
        _, _, name, password = line.split()
        assert bcrypt.checkpw(password.encode(), hashes[name].encode()), "`logins` has a password that is not valid"


def test_an_edit_is_written_to_aws_and_adopted_by_the_other_machine(machine: Any) -> None:
    first, second = machine("first"), machine("second")
    first.up()
    second.up()
    first.edit("tracking", "ROLES", "ana reader")
    first.up()
    assert remote_secrets(first)["tracking"]["ROLES"].startswith("ana reader")
    second.up()
    assert remote_secrets(first)["tracking"]["ROLES"].startswith("ana reader")
    assert second.files()["tracking"]["ROLES"].startswith("ana reader")


def test_conflicting_edits_are_refused(machine: Any) -> None:
    first, second = machine("first"), machine("second")
    first.up()
    second.up()
    first.edit("registry-api", "ATELIER_TOKENS", "ana admin " + "1" * 64)
    first.up()
    before = remote_secrets(first)
    second.edit("registry-api", "ATELIER_TOKENS", "bob admin " + "2" * 64)
    with pytest.raises(InputError, match=r"differs from .*registry-api.env.*--overwrite-secrets"):
        second.up()
    assert remote_secrets(first) == before
    second.up(overwrite=True)
    assert remote_secrets(first)["registry-api"]["ATELIER_TOKENS"] == "bob admin " + "2" * 64


def test_files_without_a_sync_record_overwrite_nothing(machine: Any) -> None:
    first, second = machine("first"), machine("second")
    first.up()
    before = remote_secrets(first)
    second.init()
    (second.folder / sync_record.FILE).unlink()
    with pytest.raises(InputError, match=r"move .* away to adopt the secrets of AWS"):
        second.up()
    assert remote_secrets(first) == before


def test_a_remote_change_between_adopt_and_sync_is_not_overwritten(machine: Any) -> None:
    first, second = machine("first"), machine("second")
    first.up()
    second.up()
    second.edit("registry-api", "ATELIER_TOKENS", "bob admin " + "2" * 64)
    sync = SecretsSync(second.folder, second.remote, second.console)
    sync.adopt(SERVICES, dry_run=False)
    first.edit("registry-api", "ATELIER_TOKENS", "ana admin " + "1" * 64)
    first.up()
    with pytest.raises(InputError, match="another machine wrote it"):
        sync.sync({"registry-api": service("registry-api", secret=None)})
    assert remote_secrets(first)["registry-api"]["ATELIER_TOKENS"] == "ana admin " + "1" * 64


def test_a_service_added_on_the_second_machine_gets_a_valid_login(machine: Any) -> None:
    first, second = machine("first"), machine("second")
    first.up(["tracking"])
    second.init()
    second.up()
    values = second.files()
    hashes = dict(line.split(":") for line in values["tracking"]["HTPASSWD"].split(r"\n"))
    assert bcrypt.checkpw(values["registry-api"]["MLFLOW_TRACKING_PASSWORD"].encode(), hashes["registry-api"].encode())
    admin = first.files()["tracking"]["HTPASSWD"].split(r"\n")[0]
    assert admin in values["tracking"]["HTPASSWD"].split(r"\n")


@pytest.mark.parametrize("machine", ["env-file"], indirect=True)
def test_no_password_is_created_for_an_existing_database(machine: Any, cloud: Cloud) -> None:
    first = machine("first")
    arguments = (first.folder, "atelier", BUCKET, Aws(REGION))
    database_password.refuse_if_lost(*arguments)
    cloud.client("rds").create_db_instance(
        DBInstanceIdentifier="atelier", DBInstanceClass="db.t4g.micro", Engine="postgres", AllocatedStorage=20
    )
    with pytest.raises(InputError, match=r"must contain DB_PW, .*neither there nor in s3://.*db_password_version"):
        database_password.refuse_if_lost(*arguments)
    first.init()
    database_password.refuse_if_lost(*arguments)


def database(before: int | None, after: int) -> dict[str, Any]:
    change = {"before": before and {"password_wo_version": before}, "after": {"password_wo_version": after}}
    return {"resource_changes": [{"type": "aws_db_instance", "change": change | {"actions": ["update"]}}]}


@pytest.mark.parametrize("machine", ["env-file"], indirect=True)
def test_a_password_changed_in_the_file_alone_is_refused(machine: Any) -> None:
    first = machine("first")
    first.up()
    database_password.refuse_if_not_applied(database(3, 3), first.folder, first.remote)
    first.edit("tracking", "DB_PW", "another")
    with pytest.raises(InputError, match="RDS would keep the old one: increase db_password_version"):
        database_password.refuse_if_not_applied(database(3, 3), first.folder, first.remote)
    for version in (None, 2):
        database_password.refuse_if_not_applied(database(version, 3), first.folder, first.remote)
