"""The secrets that tasks read, shared by all operators of an environment: in Secrets Manager, or in env files in S3."""

from __future__ import annotations

import json
from typing import Protocol

from botocore.exceptions import ClientError

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translate_errors
from atelier_infra.secrets import env_files

NOT_FOUND = ("ResourceNotFoundException", "InvalidRequestException", "NoSuchKey", "NoSuchBucket", "404")
"""Error codes of missing values; InvalidRequestException: the secret is scheduled for deletion, which Terraform reports."""


class SecretStore(Protocol):
    def location(self, service: str) -> str:
        """Name of a service's secret or file, for messages."""

    def read(self, service: str) -> dict[str, str] | None:
        """The environment variables of a service; None if nothing is stored yet.

        Raises:
            AwsError: AWS refused a call or did not respond.
        """

    def write(self, service: str, values: dict[str, str]) -> None: ...


class SecretsManagerStore:
    """One secret per service: a JSON object of environment variables."""

    def __init__(self, name: str, aws: Aws, changes: ChangeRunner) -> None:
        self._name, self._aws, self._changes = name, aws, changes

    def location(self, service: str) -> str:
        return f"secret {self._name}/{service}"

    def read(self, service: str) -> dict[str, str] | None:
        manager = self._aws.client("secretsmanager")
        with translate_errors(self._aws.region):
            try:
                text = manager.get_secret_value(SecretId=f"{self._name}/{service}")["SecretString"]
            except ClientError as error:
                if error.response["Error"]["Code"] not in NOT_FOUND:
                    raise
                return None
        values: dict[str, str] = json.loads(text)
        return values

    def write(self, service: str, values: dict[str, str]) -> None:
        self._changes.run(
            f"write the secrets of {service} to {self.location(service)}",
            self._aws.client("secretsmanager").put_secret_value,
            SecretId=f"{self._name}/{service}",
            SecretString=json.dumps(values),
        )


class EnvFileStore:
    """One env file per service in a bucket, in ECS's format."""

    def __init__(self, bucket: str, aws: Aws, changes: ChangeRunner) -> None:
        self._bucket, self._aws, self._changes = bucket, aws, changes

    def location(self, service: str) -> str:
        return f"s3://{self._bucket}/{service}.env"

    def read(self, service: str) -> dict[str, str] | None:
        with translate_errors(self._aws.region):
            try:
                body = self._aws.client("s3").get_object(Bucket=self._bucket, Key=f"{service}.env")["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] not in NOT_FOUND:
                    raise
                return None
        return env_files.parse(body.decode(), self.location(service))

    def write(self, service: str, values: dict[str, str]) -> None:
        self._changes.run(
            f"upload {service}.env to {self.location(service)}",
            self._aws.client("s3").put_object,
            Bucket=self._bucket,
            Key=f"{service}.env",
            Body=env_files.format_values(values).encode(),
        )
