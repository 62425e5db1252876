"""With `secrets = "env-file"`: refuses changes after which the password in the env file and that of RDS would differ.

RDS gets a new password only when `db_password_version` (or `secrets`) changes: changing `DB_PW` alone would lock tracking out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from atelier_infra.aws.client import Aws, translate_errors
from atelier_infra.errors import InputError
from atelier_infra.secrets import env_files
from atelier_infra.secrets.remote_secrets import SecretStore
from atelier_infra.secrets.sync_secrets import FLAG

INCREASE_VERSION = "increase db_password_version in terraform.tfvars"


def refuse_if_lost(secrets: Path, database: str, bucket: str, aws: Aws) -> None:
    """Checks, before a password is generated, that the existing database does not have one.

    Args:
        secrets: folder of the env files, after secrets on AWS were adopted.
        database: identifier of the instance.
        bucket: bucket of the env files.
        aws: clients of its account.

    Raises:
        InputError: the password of the existing database is neither on this machine nor in the bucket.
    """
    if (
        "DB_PW" in env_files.read(secrets / "tracking.env")
        or not _bucket_exists(bucket, aws)
        or not _database_exists(database, aws)
    ):
        return
    raise InputError(
        f"{secrets / 'tracking.env'} must contain DB_PW, the password of database {database}; it is neither there nor in "
        f"s3://{bucket}/tracking.env; copy the file from the machine that has it, or {INCREASE_VERSION} and pass {FLAG} "
        "to create a new one"
    )


def refuse_if_not_applied(plan: dict[str, Any], secrets: Path, remote: SecretStore) -> None:
    """Checks, before a plan is applied, that RDS has the password of the env file or gets it by the plan.

    Args:
        plan: the plan as terraform's JSON.
        secrets: folder of the env files.
        remote: the env files that the tasks read.

    Raises:
        InputError: RDS would keep a password that differs from the one in the env file.
    """
    deployed = (remote.read("tracking") or {}).get("DB_PW")
    if deployed in (None, env_files.read(secrets / "tracking.env").get("DB_PW")):
        return
    for resource in plan.get("resource_changes", []):
        before, after = resource["change"].get("before") or {}, resource["change"].get("after") or {}
        kept = before and before.get("password_wo_version") == after.get("password_wo_version")
        if resource["type"] == "aws_db_instance" and kept and resource["change"]["actions"] != ["delete"]:
            raise InputError(
                f"DB_PW of {secrets / 'tracking.env'} differs from {remote.location('tracking')}, and RDS would keep the old "
                f"one: {INCREASE_VERSION} to set the new one in RDS, or restore the old one in the file"
            )


def _bucket_exists(bucket: str, aws: Aws) -> bool:
    with translate_errors(aws.region):
        try:
            aws.client("s3").head_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
                raise
            return False
    return True


def _database_exists(database: str, aws: Aws) -> bool:
    rds = aws.client("rds")
    with translate_errors(aws.region):
        try:
            rds.describe_db_instances(DBInstanceIdentifier=database)
        except rds.exceptions.DBInstanceNotFoundFault:
            return False
    return True
