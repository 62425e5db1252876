"""Brings the secrets from the files of this machine to where the tasks read them; no state of Terraform holds one."""

from __future__ import annotations

import json
from pathlib import Path

from botocore.exceptions import ClientError

from atelier_infra import envfiles
from atelier_infra.aws import Aws, translated
from atelier_infra.changes import Changes
from atelier_infra.errors import AnswerError
from atelier_infra.stack import Service, Stack


def bring(stack: Stack, folder: Path, aws: Aws, changes: Changes) -> None:
    """Writes each service's secret, or its env file in S3, unless it is there already.

    Args:
        stack: the environment.
        folder: with the env files.
        aws: connection.
        changes: how things are changed.

    Raises:
        AnswerError: a file lacks a variable that its service needs.
    """
    for name, service in stack.services.items():
        path = folder / f"{name}.env"
        values = envfiles.read(path)
        if missing := [each for each in service.secret_names if not values.get(each)]:
            raise AnswerError(
                f"{path} must hold {', '.join(missing)}; add it, or move the file away and let `up` make a new one"
            )
        if stack.config_bucket:
            _to_s3(stack.config_bucket, path, aws, changes)
        else:
            _to_manager(name, service, values, aws, changes)


def _to_s3(bucket: str, path: Path, aws: Aws, changes: Changes) -> None:
    s3, body = aws.client("s3"), path.read_bytes()
    with translated(aws.region):
        try:
            same = s3.get_object(Bucket=bucket, Key=path.name)["Body"].read() == body
        except s3.exceptions.NoSuchKey:
            same = False
    if not same:
        changes.make(f"upload {path.name} to s3://{bucket}", s3.put_object, Bucket=bucket, Key=path.name, Body=body)


def _to_manager(name: str, service: Service, values: dict[str, str], aws: Aws, changes: Changes) -> None:
    manager = aws.client("secretsmanager")
    wanted = {each: values[each] for each in service.secret_names}
    with translated(aws.region):
        try:
            same = json.loads(manager.get_secret_value(SecretId=service.secret)["SecretString"]) == wanted
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":  # it exists, and has no value yet
                raise
            same = False
    if not same:
        changes.make(
            f"write the logins of {name} to secret {service.secret}",
            manager.put_secret_value,
            SecretId=service.secret,
            SecretString=json.dumps(wanted),
        )
