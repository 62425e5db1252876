"""Where the tasks read their secrets, shared by everybody who works on the environment: Secrets Manager, or env files in S3."""

from __future__ import annotations

import json
from typing import Protocol

from botocore.exceptions import ClientError

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translated
from atelier_infra.secrets import env_files

ABSENT = ("ResourceNotFoundException", "InvalidRequestException", "NoSuchKey", "NoSuchBucket", "404")
"""There is no value; InvalidRequestException stands for a secret that is scheduled for deletion, which Terraform explains."""


class SecretStore(Protocol):
    """One place that holds the secrets of each service."""

    def place(self, service: str) -> str: ...

    def read(self, service: str) -> dict[str, str] | None:
        """The variables; None where there are none yet.

        Raises:
            AwsError: AWS refused, or did not answer.
        """

    def write(self, service: str, values: dict[str, str]) -> None: ...


class SecretsManagerStore:
    """A JSON object for each service in Secrets Manager."""

    def __init__(self, name: str, aws: Aws, changes: ChangeRunner) -> None:
        self._name, self._aws, self._changes = name, aws, changes

    def place(self, service: str) -> str:
        return f"secret {self._name}/{service}"

    def read(self, service: str) -> dict[str, str] | None:
        manager = self._aws.client("secretsmanager")
        with translated(self._aws.region):
            try:
                text = manager.get_secret_value(SecretId=f"{self._name}/{service}")["SecretString"]
            except ClientError as error:
                if error.response["Error"]["Code"] not in ABSENT:
                    raise
                return None
        found: dict[str, str] = json.loads(text)
        return found

    def write(self, service: str, values: dict[str, str]) -> None:
        self._changes.make(
            f"write the logins of {service} to {self.place(service)}",
            self._aws.client("secretsmanager").put_secret_value,
            SecretId=f"{self._name}/{service}",
            SecretString=json.dumps(values),
        )


class EnvFileStore:
    """An env file for each service in a bucket, as ECS reads it."""

    def __init__(self, bucket: str, aws: Aws, changes: ChangeRunner) -> None:
        self._bucket, self._aws, self._changes = bucket, aws, changes

    def place(self, service: str) -> str:
        return f"s3://{self._bucket}/{service}.env"

    def read(self, service: str) -> dict[str, str] | None:
        with translated(self._aws.region):
            try:
                body = self._aws.client("s3").get_object(Bucket=self._bucket, Key=f"{service}.env")["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] not in ABSENT:
                    raise
                return None
        return env_files.parse(body.decode(), self.place(service))

    def write(self, service: str, values: dict[str, str]) -> None:
        self._changes.make(
            f"upload {service}.env to {self.place(service)}",
            self._aws.client("s3").put_object,
            Bucket=self._bucket,
            Key=f"{service}.env",
            Body=env_files.text(values).encode(),
        )
