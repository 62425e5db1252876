"""With `secrets = "env-file"`: the password in the env file and the one that RDS was given are the same, or nothing is changed.

RDS takes a password only where `db_password_version` (or the place of the secrets) changes: another `DB_PW` in the file alone
would lock tracking out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from atelier_infra.aws.client import Aws, translated
from atelier_infra.errors import AnswerError
from atelier_infra.secrets import env_files
from atelier_infra.secrets.remote_secrets import SecretStore
from atelier_infra.secrets.sync_secrets import FLAG

RAISE = "raise db_password_version in terraform.tfvars"


def refuse_if_lost(secrets: Path, database: str, bucket: str, aws: Aws) -> None:
    """Before a password is made: none is made for a database that has one.

    Args:
        secrets: folder of the env files; what AWS held is in them already.
        database: identifier of the instance.
        bucket: of the env files.
        aws: connection.

    Raises:
        AnswerError: the database runs with a password that is neither here nor in the bucket.
    """
    if "DB_PW" in env_files.read(secrets / "tracking.env") or not _has_bucket(bucket, aws) or not _has_database(database, aws):
        return
    raise AnswerError(
        f"{secrets / 'tracking.env'} must hold DB_PW, the password of database {database}; it is neither there nor in "
        f"s3://{bucket}/tracking.env; copy the file from the machine that has it, or {RAISE} and say {FLAG} to make a new one"
    )


def refuse_if_unset(plan: dict[str, Any], secrets: Path, remote: SecretStore) -> None:
    """Before a plan is carried out: the file holds what RDS has, or the plan gives it to RDS.

    Args:
        plan: terraform's JSON.
        secrets: folder of the env files.
        remote: the env files that the tasks read.

    Raises:
        AnswerError: the plan leaves RDS with another password than the one in the file.
    """
    deployed = (remote.read("tracking") or {}).get("DB_PW")
    if deployed in (None, env_files.read(secrets / "tracking.env").get("DB_PW")):
        return
    for each in plan.get("resource_changes", []):
        before, after = each["change"].get("before") or {}, each["change"].get("after") or {}
        kept = before and before.get("password_wo_version") == after.get("password_wo_version")
        if each["type"] == "aws_db_instance" and kept and each["change"]["actions"] != ["delete"]:
            raise AnswerError(
                f"DB_PW of {secrets / 'tracking.env'} differs from {remote.place('tracking')}, and RDS would keep the old one: "
                f"{RAISE} to give RDS the new one, or put the old one back"
            )


def _has_bucket(bucket: str, aws: Aws) -> bool:
    with translated(aws.region):
        try:
            aws.client("s3").head_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
                raise
            return False
    return True


def _has_database(database: str, aws: Aws) -> bool:
    rds = aws.client("rds")
    with translated(aws.region):
        try:
            rds.describe_db_instances(DBInstanceIdentifier=database)
        except rds.exceptions.DBInstanceNotFoundFault:
            return False
    return True
