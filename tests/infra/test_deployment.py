"""The life of one environment on moto, from init to destroy; the tests run in the order of the file."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from atelier_infra.aws.client import Aws
from atelier_infra.commands import push
from atelier_infra.environment.stack import read_stack
from atelier_infra.secrets import env_files
from rich.console import Console

from .cloud import REGION, environment
from .deployment import LOST_ON_FIRST_APPLY, Docker, Environment, adopt_lost_resources, container, second_machine
from .plan_rules import as_list

pytestmark = [pytest.mark.infra, pytest.mark.timeout(1500)]


def test_an_interrupted_up_keeps_what_it_created(env: Environment) -> None:
    env.run("init", "--region", REGION, "--allow", "203.0.113.7", "--user", "ana")
    with env.popen("up", "--yes") as process:
        lines, sent = [], False
        for line in process.stdout:
            lines.append(line)
            # while the database is created, which takes longest
            if not sent and "✓ create" in line and "aws_vpc_endpoint" in line:
                process.send_signal(signal.SIGINT)
                sent = True
        process.wait(300)
    assert process.returncode == 130, "".join(lines)
    assert "run the same command again to continue" in "".join(lines)
    assert len(json.loads(env.state())["resources"]) > 20
    assert "run `python -m atelier_infra up`" in env.run("status", code=1)


def test_up_continues_after_an_interruption(env: Environment) -> None:
    adopt_lost_resources(env)
    out = env.run("plan")
    assert "always on" in out and "database db.t4g.micro" in out
    assert env.differences() <= LOST_ON_FIRST_APPLY


def test_a_second_up_changes_nothing(env: Environment) -> None:
    assert "write the secrets" not in env.run("up", "--yes")
    assert env.differences() == set()


def test_up_on_a_second_machine_adopts_the_secrets(env: Environment, tmp_path: Path) -> None:
    second, manager = second_machine(env, tmp_path), env.cloud.client("secretsmanager")
    before = manager.get_secret_value(SecretId="atelier/tracking")
    out = second.run("up", "--yes")
    assert "adopted the secrets of tracking from secret atelier/tracking" in out and "write the secrets" not in out
    after = manager.get_secret_value(SecretId="atelier/tracking")
    assert (after["VersionId"], after["SecretString"]) == (before["VersionId"], before["SecretString"])
    files = [env_files.read(machine.folder.path / "secrets" / "tracking.env") for machine in (env, second)]
    assert files[0] == files[1] == json.loads(before["SecretString"])


def test_services_without_an_image_do_not_start(env: Environment) -> None:
    assert "tracking has no image yet" in env.run("start", code=1)
    assert "has no image r1; run `python -m atelier_infra push tracking`" in env.run("deploy", "--tag", "r1", code=1)
    assert "none of its tasks is running" in env.run("url", code=1)


def test_push_deploy_and_start(env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(env.folder.endpoint).items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    docker, root = Docker(env.cloud), Path(__file__).parents[2]
    stack = read_stack(json.loads(env.folder.terraform("output", "-json").stdout))
    pusher = push.ImagePusher(root, Aws(REGION), docker, Console(file=io.StringIO()))
    for tag in ("r1", "r2"):
        pusher.push(stack.services, tag, dry_run=False)
    assert [arguments[1] for arguments, _ in docker.calls] == ["build", "login", "push"] * 2
    assert Path(docker.calls[0][0][5]).parent == root / "services" / "tracking"
    assert docker.calls[1][1] and docker.calls[1][1] not in str([arguments for arguments, _ in docker.calls])

    assert "tracking is stopped; `python -m atelier_infra start` runs r1" in env.run("deploy", "--tag", "r1")
    out = env.run("start")
    assert "tracking is healthy" in out and "tracking: http://" in out
    assert env.run("url").startswith("http://")
    assert "tracking is healthy" in env.run("deploy", "--tag", "r2")
    template, running = container(env, "atelier-tracking:1"), container(env, "atelier-tracking:3")
    assert running["image"] == f"{stack.services['tracking'].repository}:r2"
    assert {**running, "image": ""} == {**template, "image": ""}


def test_upgrade_takes_a_snapshot_migrates_deploys_and_prints_the_rollback(env: Environment) -> None:
    out = env.run("upgrade", "--tag", "r1")
    steps = ("take snapshot atelier-before-r1-", "stop tracking", "run `migrate`", "deploy tracking r1", "tracking is healthy")
    assert [out.index(each) for each in steps] == sorted(out.index(each) for each in steps)
    [snapshot] = env.cloud.client("rds").describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]
    assert f"python -m atelier_infra restore {snapshot['DBSnapshotIdentifier']}" in out
    assert "python -m atelier_infra deploy tracking --tag r2" in out
    assert "has no image r9" in env.run("upgrade", "--tag", "r9", code=1)
    assert "tracking is healthy" in env.run("deploy", "--tag", "r2")


def test_gc_runs_the_deployed_image(env: Environment) -> None:
    assert "run `gc --older-than-days 30`" in env.run("gc")
    assert "run `gc --older-than-days 7 --yes`" in env.run("gc", "--yes", "--older-than-days", "7")


def test_a_backup_is_verified_before_it_is_restored(env: Environment) -> None:
    """The restore itself takes minutes and is tested in test_deployment_variants.py."""
    s3, bucket = env.cloud.client("s3"), f"atelier-artifacts-123456789012-{REGION}"
    for key in ("1/a/model", "1/a/notes", "1/a/kept"):
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    [name] = re.findall(r"atelier_infra restore (\S+)", env.run("backup"))
    backups = f"atelier-backups-123456789012-{REGION}"
    assert set(s3.get_public_access_block(Bucket=backups)["PublicAccessBlockConfiguration"].values()) == {True}
    manifest = json.loads(s3.get_object(Bucket=backups, Key=f"{name}/manifest.json")["Body"].read())
    assert ([each["key"] for each in manifest["objects"]], manifest["images"]) == (
        ["1/a/kept", "1/a/model", "1/a/notes"],
        {"tracking": "r2"},
    )
    for key in ("1/a/model", "1/a/notes"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"overwritten")
    assert "There is no terminal to confirm on; pass --yes" in env.run("restore", name, code=1)
    out = env.run("restore", name, "--dry-run")
    assert "would restore 2 of 3 artifacts" in out and "would recreate the database from atelier-backup-" in out
    s3.put_object(Bucket=backups, Key=f"{name}/artifacts/1/a/model", Body=b"damaged")
    assert "is damaged and was not restored: 1 files" in env.run("restore", name, "--yes", code=1)
    assert "has no backup 20000101-000000" in env.run("restore", "20000101-000000", "--yes", code=1)
    assert "has no complete snapshot somebody-elses" in env.run("restore", "somebody-elses", "--yes", code=1)


def test_terraform_does_not_revert_deployments(env: Environment) -> None:
    assert env.differences() == set()


def test_status_and_logs(env: Environment) -> None:
    out = env.run("status")
    assert "running" in out and "1 of 1" in out and "r2" in out and "warning" not in out
    logs = env.cloud.client("logs")
    logs.create_log_stream(logGroupName="/atelier/tracking", logStreamName="task/tracking/1")
    event = {"timestamp": int(time.time() * 1000), "message": "MLflow listens"}
    logs.put_log_events(logGroupName="/atelier/tracking", logStreamName="task/tracking/1", logEvents=[event])
    assert "MLflow listens" in env.run("logs")


def test_stop_and_start_with_the_database(env: Environment) -> None:
    out = env.run("stop", "--database")
    assert "stop the database" in out and "seven days" in out
    status = env.run("status")
    assert "stopped" in status or "stopping" in status
    assert env.differences() == set()
    out = env.run("start")
    assert "start the database" in out and "tracking is healthy" in out


def test_a_dry_run_of_everything_changes_nothing(env: Environment) -> None:
    before = env.state()
    operator = (["upgrade", "--tag", "r1"], ["backup"], ["gc"])
    for words in (["stop", "--database"], ["start"], ["deploy", "--tag", "r1"], ["destroy"], ["up"], *operator):
        assert "✓" not in env.run(*words, "--dry-run")
    assert env.state() == before
    assert env.run("url").startswith("http://")


CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"


def test_switching_to_an_env_file(env: Environment) -> None:
    env.edit('secrets = "secrets-manager"', 'secrets = "env-file"\ndatabase_ca_file = "rds.pem"')
    (env.folder.path / "rds.pem").write_text(CA)
    out = env.run("up", "--yes")
    assert "upload tracking.env" in out
    written = (env.folder.path / "secrets" / "tracking.env").read_bytes()
    bucket = f"atelier-config-123456789012-{REGION}"
    assert env.cloud.client("s3").get_object(Bucket=bucket, Key="tracking.env")["Body"].read() == written
    definition = container(env)
    assert definition["environmentFiles"] == [{"type": "s3", "value": f"arn:aws:s3:::{bucket}/tracking.env"}]
    assert definition.get("secrets", []) == []
    iam = env.cloud.client("iam")
    policy = iam.get_role_policy(RoleName="atelier-tracking-execution", PolicyName="env-file")["PolicyDocument"]
    assert {tuple(as_list(each["Action"])): each["Resource"] for each in policy["Statement"]} == {
        ("s3:GetBucketLocation",): f"arn:aws:s3:::{bucket}",
        ("s3:GetObject",): f"arn:aws:s3:::{bucket}/tracking.env",
    }
    assert env.password()["db_password"] not in env.state()
    assert "runs with settings from before the last `up`; apply them with `deploy --tag r2`" in env.run("status")


def test_with_amazons_certificates_services_verify_the_database(env: Environment, tmp_path: Path) -> None:
    definition = container(env)
    variables = {each["name"]: each["value"] for each in definition["environment"]}
    assert (variables["DB_TLS_MODE"], variables["DATABASE_CA"]) == ("verify-full", CA.replace("\n", r"\n"))
    (tmp_path / "tini").write_text('#!/bin/sh\necho "$@"; env | grep -c DATABASE_CA; cat "$DB_TLS_CA_FILE"')
    (tmp_path / "tini").chmod(0o755)
    entry_point = [word.replace("/tmp/database-ca.pem", str(tmp_path / "ca.pem")) for word in definition["entryPoint"]]
    values = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "DATABASE_CA": variables["DATABASE_CA"],
        "DB_TLS_CA_FILE": str(tmp_path / "ca.pem"),
    }
    assert variables["DB_TLS_CA_FILE"] == "/tmp/database-ca.pem"
    output = subprocess.run([*entry_point, "migrate"], env=values, capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["-- python3 -m atelier_tracking migrate", "0", *CA.splitlines()]


def test_a_second_machine_adopts_the_env_file_and_its_password(env: Environment, tmp_path: Path) -> None:
    second, bucket = second_machine(env, tmp_path), f"atelier-config-123456789012-{REGION}"
    body = env.cloud.client("s3").get_object(Bucket=bucket, Key="tracking.env")["Body"].read()
    out = second.run("up", "--yes")
    assert "from s3://" in out and "upload" not in out
    assert env.cloud.client("s3").get_object(Bucket=bucket, Key="tracking.env")["Body"].read() == body
    assert second.password() == env.password() != {}
    path = second.folder.path / "secrets" / "tracking.env"
    env_files.write(path, env_files.read(path) | {"DB_PW": "another-password"})
    assert "RDS would keep the old one: increase db_password_version" in second.run("up", "--yes", code=1)
    assert env.cloud.client("s3").get_object(Bucket=bucket, Key="tracking.env")["Body"].read() == body


def test_destroy_keeps_the_data_and_up_restores_it(env: Environment) -> None:
    assert "There is no terminal to confirm on; pass --yes" in env.run("destroy", code=1)
    out = env.run("destroy", "--yes")
    assert "kept: bucket" in out
    assert env.cloud.client("rds").describe_db_instances()["DBInstances"] == []
    found = env.cloud.client("rds").describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]
    kept = max(found, key=lambda each: each["DBSnapshotIdentifier"])
    assert kept["DBSnapshotIdentifier"].startswith("atelier-kept-")
    assert [each["Name"] for each in env.cloud.client("s3").list_buckets()["Buckets"]] != []
    assert "only the data of this environment is kept" in env.run("start", code=1)
    assert f"will be created from snapshot {kept['DBSnapshotIdentifier']}" in env.run("up", "--dry-run")


def test_destroy_with_data_leaves_backups_only(env: Environment) -> None:
    env.cloud.client("s3").put_object(Bucket=f"atelier-artifacts-123456789012-{REGION}", Key="1/model", Body=b"x")
    env.run("destroy", "--data", "--yes")
    assert env.folder.terraform("state", "list").stdout == ""
    rds, s3, backups = env.cloud.client("rds"), env.cloud.client("s3"), f"atelier-backups-123456789012-{REGION}"
    [backup] = rds.describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]
    assert backup["DBSnapshotIdentifier"].startswith("atelier-backup-"), "backups outlive the environment"
    assert [each["Name"] for each in s3.list_buckets()["Buckets"]] == [backups]
    left = {
        "databases": env.cloud.client("rds").describe_db_instances()["DBInstances"],
        "images": env.cloud.client("ecr").describe_repositories()["repositories"],
        "secrets": env.cloud.client("secretsmanager").list_secrets()["SecretList"],
        "task definitions": env.cloud.client("ecs").list_task_definitions(status="ACTIVE")["taskDefinitionArns"],
        "roles": [each["RoleName"] for each in env.cloud.client("iam").list_roles()["Roles"]],
        "networks": [each["VpcId"] for each in env.cloud.client("ec2").describe_vpcs()["Vpcs"] if not each["IsDefault"]],
        "logs": env.cloud.client("logs").describe_log_groups()["logGroups"],
    }
    assert {name: found for name, found in left.items() if found} == {}
