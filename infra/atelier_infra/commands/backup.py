"""`backup` and `restore`: a snapshot of the database, each artifact copied to a bucket of its own, and a manifest of both."""

from __future__ import annotations

import json
import re
from typing import Any

from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict, ValidationError

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translated
from atelier_infra.commands.init import create_private_bucket
from atelier_infra.environment.snapshots import Snapshots, clock
from atelier_infra.environment.stack import Stack
from atelier_infra.errors import AnswerError

NAME = re.compile(r"\d{8}-\d{6}")


class Copied(BaseModel):
    """One artifact, and what S3 says of its copy."""

    model_config = ConfigDict(frozen=True)

    key: str
    size_bytes: int
    etag: str
    sha256: str | None


class Manifest(BaseModel):
    """Everything about one backup.

    Attributes:
        made_at: when it was begun, which is its name.
        snapshot: of the database.
        images: tag of each service that ran.
        objects: every artifact.
    """

    model_config = ConfigDict(frozen=True)

    made_at: str
    snapshot: str
    images: dict[str, str]
    objects: list[Copied]


class Backups:
    """The bucket with the backups of one environment."""

    def __init__(self, stack: Stack, account: str, aws: Aws, changes: ChangeRunner, snapshots: Snapshots) -> None:
        self._stack, self._aws, self._changes, self._snapshots = stack, aws, changes, snapshots
        self.bucket = f"{stack.name}-backups-{account}-{stack.region}"
        self._s3 = aws.client("s3")

    def make(self, images: dict[str, str], timeout_s: float) -> str:
        """Makes one. The artifacts are read after the snapshot: every file that one of its rows names is there.

        Args:
            images: tag of each service, for the way back.
            timeout_s: to wait for the snapshot.

        Returns:
            Its name.
        """
        create_private_bucket(self.bucket, self._aws, self._changes)
        name = clock()
        snapshot = self._snapshots.take("backup", timeout_s)
        keys = [each["Key"] for each in self._listed(self._stack.artifact_bucket)]
        if self._changes.dry_run:
            self._changes.make(f"copy {len(keys)} artifacts to s3://{self.bucket}/{name}/", self._s3.copy)
            return name
        with translated(self._aws.region):
            copied = [each for key in keys if (each := self._copy(key, name)) is not None]
        told = Manifest(made_at=name, snapshot=snapshot, images=images, objects=copied)
        size_mb = sum(each.size_bytes for each in copied) / 1e6
        # it comes last, so a backup without it is one that was interrupted
        self._changes.make(
            f"copy {len(copied)} artifacts to s3://{self.bucket}/{name}/, {size_mb:.1f} MB",
            self._s3.put_object,
            Bucket=self.bucket,
            Key=f"{name}/manifest.json",
            Body=told.model_dump_json(indent=1).encode(),
        )
        return name

    def read(self, name: str) -> Manifest:
        """Reads a backup, and sees that each of its files is as it was.

        Raises:
            AnswerError: there is none of this name, or it is damaged.
        """
        with translated(self._aws.region):
            try:
                text = self._s3.get_object(Bucket=self.bucket, Key=f"{name}/manifest.json")["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("NoSuchKey", "NoSuchBucket", "404"):
                    raise
                raise AnswerError(f"there is no backup {name} in s3://{self.bucket}; there are {self._names()}") from error
        try:
            told = Manifest.model_validate(json.loads(text))
        except (ValueError, ValidationError) as error:
            raise AnswerError(
                f"s3://{self.bucket}/{name}/manifest.json must be what `backup` wrote; received {error}"
            ) from error
        self._snapshots.check(told.snapshot)
        with translated(self._aws.region):
            wrong = [each.key for each in told.objects if self._describe(self.bucket, f"{name}/artifacts/{each.key}") != each]
        if wrong:
            raise AnswerError(
                f"backup {name} is damaged, nothing was restored: {len(wrong)} files are missing or changed, "
                f"such as {wrong[0]}; an earlier version of them is in the bucket's versions"
            )
        return told

    def restore_artifacts(self, told: Manifest) -> int:
        """Copies each artifact that differs; what was added since stays. The bucket keeps versions of what is replaced.

        Returns:
            How many were copied.
        """
        here = {each["Key"]: each["ETag"] for each in self._listed(self._stack.artifact_bucket)}
        wanted = [each for each in told.objects if here.get(each.key) != each.etag]
        with translated(self._aws.region):
            for each in wanted if not self._changes.dry_run else ():
                source = {"Bucket": self.bucket, "Key": f"{told.made_at}/artifacts/{each.key}"}
                self._s3.copy(source, self._stack.artifact_bucket, each.key)
        return len(wanted)

    def _copy(self, key: str, name: str) -> Copied | None:
        source, to = {"Bucket": self._stack.artifact_bucket, "Key": key}, f"{name}/artifacts/{key}"
        try:
            self._s3.copy(source, self.bucket, to, ExtraArgs={"ChecksumAlgorithm": "SHA256"})
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
                raise
            return None  # deleted since it was listed
        return self._describe(self.bucket, to)

    def _describe(self, bucket: str, key: str) -> Copied | None:
        try:
            head: dict[str, Any] = self._s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
                raise
            return None
        own = key.partition("/artifacts/")[2]
        return Copied(key=own, size_bytes=head["ContentLength"], etag=head["ETag"], sha256=head.get("ChecksumSHA256"))

    def _listed(self, bucket: str) -> list[dict[str, Any]]:
        with translated(self._aws.region):
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            return [each for page in pages for each in page.get("Contents", [])]

    def _names(self) -> str:
        with translated(self._aws.region):
            try:
                found = self._s3.list_objects_v2(Bucket=self.bucket, Delimiter="/").get("CommonPrefixes", [])
            except ClientError:
                found = []
        return ", ".join(each["Prefix"].rstrip("/") for each in found) or "none"
