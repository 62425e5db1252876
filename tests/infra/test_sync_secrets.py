"""Two people, two machines, one environment: nobody's `up` resets the logins of the other."""

from __future__ import annotations

import io

import bcrypt
import pytest
from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws
from atelier_infra.errors import AnswerError
from atelier_infra.secrets import credentials, database_password, env_files, sync_record
from atelier_infra.secrets.remote_secrets import EnvFileStore, SecretsManagerStore
from atelier_infra.secrets.sync_secrets import SecretsSync
from rich.console import Console

from .cloud import REGION, environment
from .stubs import service

pytestmark = [pytest.mark.infra, pytest.mark.timeout(300)]

SERVICES = ["tracking", "registry-api"]
BUCKET = "atelier-config-123456789012-eu-central-1"
NAMES = {
    "tracking": ["HTPASSWD", "ROLES"],
    "registry-api": ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "ATELIER_TOKENS"],
}


class Machine:
    """One person's folder of secrets, and what the command does with it."""

    def __init__(self, folder, cloud, mode: str) -> None:
        self.folder, self.mode, self.printed = folder, mode, io.StringIO()
        console = Console(file=self.printed, width=200)
        aws = Aws(REGION)
        changes = ChangeRunner(console, REGION, dry_run=False)
        places = [SecretsManagerStore("atelier", aws, changes), EnvFileStore(BUCKET, aws, changes)]
        self.remote, self.earlier = places if mode == "secrets-manager" else places[::-1]
        self.console = console

    def init(self, services=SERVICES) -> None:
        credentials.complete(self.folder, services, "ana", env_file=self.mode == "env-file")

    def up(self, services=SERVICES, *, overwrite: bool = False) -> None:
        shared = SecretsSync(self.folder, self.remote, self.console, earlier=self.earlier, overwrite=overwrite)
        shared.adopt(services, dry_run=False)
        self.init(services)
        more = {"tracking": ["DB_PW"], "registry-api": ["PGPASSWORD"]} if self.mode == "env-file" else {}
        secret = {} if self.mode == "secrets-manager" else {"secret": None}
        shared.sync({each: service(each, secret_names=NAMES[each] + more.get(each, []), **secret) for each in services})

    def files(self) -> dict[str, dict[str, str]]:
        return {each: env_files.read(self.folder / f"{each}.env") for each in SERVICES}

    def edit(self, name: str, variable: str, value: str) -> None:
        path = self.folder / f"{name}.env"
        env_files.write(path, env_files.read(path) | {variable: value})


@pytest.fixture(params=["secrets-manager", "env-file"])
def machine(request, tmp_path, cloud, monkeypatch):
    """Makes a machine; the environment exists, without any secret in it."""
    for name, value in environment(cloud.endpoint).items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    if request.param == "env-file":
        cloud.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    else:
        for name in SERVICES:
            cloud.client("secretsmanager").create_secret(Name=f"atelier/{name}")
    return lambda name: Machine(tmp_path / name, cloud, request.param)


def held(one: Machine) -> dict[str, dict[str, str] | None]:
    return {each: one.remote.read(each) for each in SERVICES}


def test_a_second_machine_takes_over_what_is_there(machine):
    first, second = machine("first"), machine("second")
    first.up()
    before = held(first)
    second.up()
    assert held(first) == before
    shared = {name: {key: values[key] for key in before[name]} for name, values in second.files().items()}
    assert shared == before
    assert "adopted the logins" in second.printed.getvalue()
    assert not (second.folder / "logins").exists()


def test_what_init_made_on_a_second_machine_gives_way_and_is_forgotten(machine):
    first, second = machine("first"), machine("second")
    first.up()
    before = held(first)
    second.init()
    assert held(first) == before != second.files()
    second.up()
    assert held(first) == before
    hashes = dict(line.split(":") for line in second.files()["tracking"]["HTPASSWD"].split(r"\n"))
    for line in (second.folder / "logins").read_text().splitlines()[1:]:
        _, _, name, password = line.split()
        assert bcrypt.checkpw(password.encode(), hashes[name].encode()), "a password is noted that opens nothing"


def test_an_edit_is_brought_to_aws_and_reaches_the_other_machine(machine):
    first, second = machine("first"), machine("second")
    first.up()
    second.up()
    first.edit("tracking", "ROLES", "ana reader")
    first.up()
    assert held(first)["tracking"]["ROLES"].startswith("ana reader")
    second.up()
    assert held(first)["tracking"]["ROLES"].startswith("ana reader")
    assert second.files()["tracking"]["ROLES"].startswith("ana reader")


def test_two_edits_are_never_merged_in_silence(machine):
    first, second = machine("first"), machine("second")
    first.up()
    second.up()
    first.edit("registry-api", "ATELIER_TOKENS", "ana admin " + "1" * 64)
    first.up()
    before = held(first)
    second.edit("registry-api", "ATELIER_TOKENS", "bob admin " + "2" * 64)
    with pytest.raises(AnswerError, match=r"differs from .*registry-api.env.*--overwrite-secrets"):
        second.up()
    assert held(first) == before
    second.up(overwrite=True)
    assert held(first)["registry-api"]["ATELIER_TOKENS"] == "bob admin " + "2" * 64


def test_files_of_an_older_release_without_a_record_overwrite_nothing(machine):
    first, second = machine("first"), machine("second")
    first.up()
    before = held(first)
    second.init()
    (second.folder / sync_record.FILE).unlink()
    with pytest.raises(AnswerError, match=r"move .* away to adopt what AWS holds"):
        second.up()
    assert held(first) == before


def test_what_changed_at_aws_between_the_look_and_the_write_is_not_overwritten(machine):
    first, second = machine("first"), machine("second")
    first.up()
    second.up()
    second.edit("registry-api", "ATELIER_TOKENS", "bob admin " + "2" * 64)
    shared = SecretsSync(second.folder, second.remote, second.console)
    shared.adopt(SERVICES, dry_run=False)
    first.edit("registry-api", "ATELIER_TOKENS", "ana admin " + "1" * 64)
    first.up()
    with pytest.raises(AnswerError, match="another machine wrote it"):
        shared.sync({"registry-api": service("registry-api", secret=None)})
    assert held(first)["registry-api"]["ATELIER_TOKENS"] == "ana admin " + "1" * 64


def test_a_service_that_only_the_second_machine_adds_gets_a_login_that_works(machine):
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
def test_a_password_is_not_made_for_a_database_that_has_one(machine, cloud):
    one = machine("first")
    rule = (one.folder, "atelier", BUCKET, Aws(REGION))
    database_password.refuse_if_lost(*rule)
    cloud.client("rds").create_db_instance(
        DBInstanceIdentifier="atelier", DBInstanceClass="db.t4g.micro", Engine="postgres", AllocatedStorage=20
    )
    with pytest.raises(AnswerError, match=r"must hold DB_PW, .*neither there nor in s3://.*db_password_version"):
        database_password.refuse_if_lost(*rule)
    one.init()
    database_password.refuse_if_lost(*rule)


def database(before: int | None, after: int) -> dict[str, object]:
    change = {"before": before and {"password_wo_version": before}, "after": {"password_wo_version": after}}
    return {"resource_changes": [{"type": "aws_db_instance", "change": change | {"actions": ["update"]}}]}


@pytest.mark.parametrize("machine", ["env-file"], indirect=True)
def test_another_password_in_the_file_alone_is_refused(machine):
    one = machine("first")
    one.up()
    database_password.refuse_if_unset(database(3, 3), one.folder, one.remote)
    one.edit("tracking", "DB_PW", "another")
    with pytest.raises(AnswerError, match="RDS would keep the old one: raise db_password_version"):
        database_password.refuse_if_unset(database(3, 3), one.folder, one.remote)
    for version in (None, 2):
        database_password.refuse_if_unset(database(version, 3), one.folder, one.remote)
