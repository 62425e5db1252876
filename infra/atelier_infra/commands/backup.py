"""Backups: a snapshot of the database, copies of all artifacts in the backup bucket, and a manifest of both."""

from __future__ import annotations

import json
import re
from typing import Any

from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict, ValidationError

from atelier_infra.aws.change_runner import ChangeRunner
from atelier_infra.aws.client import Aws, translate_errors
from atelier_infra.commands.init import create_private_bucket
from atelier_infra.environment.snapshots import Snapshots, timestamp
from atelier_infra.environment.stack import Stack
from atelier_infra.errors import InputError

BACKUP_NAME = re.compile(r"\d{8}-\d{6}")
OBJECT_NOT_FOUND = ("404", "NoSuchKey")


class CopiedObject(BaseModel):
    """One artifact, with size, ETag and checksum that S3 reports for its copy."""

    model_config = ConfigDict(frozen=True)

    key: str
    size_bytes: int
    etag: str
    sha256: str | None


class Manifest(BaseModel):
    """manifest.json.

    Attributes:
        made_at: UTC time at which the backup was started; also its name.
        snapshot: identifier of the database snapshot.
        images: service → tag of its image.
        objects: all artifacts.
    """

    model_config = ConfigDict(frozen=True)

    made_at: str
    snapshot: str
    images: dict[str, str]
    objects: list[CopiedObject]


class Backups:
    """The backups of one environment, in a bucket that outlives it."""

    def __init__(self, stack: Stack, account: str, aws: Aws, changes: ChangeRunner, snapshots: Snapshots) -> None:
        self._stack, self._aws, self._changes, self._snapshots = stack, aws, changes, snapshots
        self.bucket = f"{stack.name}-backups-{account}-{stack.region}"
        self._s3 = aws.client("s3")

    def create(self, images: dict[str, str], timeout_s: float) -> str:
        """Creates a backup. Artifacts are copied after the snapshot, so that every file that its rows reference is included.

        Args:
            images: service → tag, stored for the restore.
            timeout_s: seconds to wait for the snapshot.

        Returns:
            The name of the backup.
        """
        create_private_bucket(self.bucket, self._aws, self._changes)
        name = timestamp()
        snapshot = self._snapshots.create("backup", timeout_s)
        keys = list(self._etags(self._stack.artifact_bucket))
        if self._changes.dry_run:
            self._changes.run(f"copy {len(keys)} artifacts to s3://{self.bucket}/{name}/", self._s3.copy)
            return name
        with translate_errors(self._aws.region):
            copies = [copy for key in keys if (copy := self._copy(key, name)) is not None]
        manifest = Manifest(made_at=name, snapshot=snapshot, images=images, objects=copies)
        size_mb = sum(copy.size_bytes for copy in copies) / 1e6
        # written last: a backup without a manifest was interrupted
        self._changes.run(
            f"copy {len(copies)} artifacts to s3://{self.bucket}/{name}/, {size_mb:.1f} MB",
            self._s3.put_object,
            Bucket=self.bucket,
            Key=f"{name}/manifest.json",
            Body=manifest.model_dump_json(indent=1).encode(),
        )
        return name

    def read(self, name: str) -> Manifest:
        """Reads a manifest, and verifies the snapshot and every copy against it.

        Raises:
            InputError: there is no backup of this name, or it is damaged.
        """
        with translate_errors(self._aws.region):
            try:
                text = self._s3.get_object(Bucket=self.bucket, Key=f"{name}/manifest.json")["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] not in (*OBJECT_NOT_FOUND, "NoSuchBucket"):
                    raise
                raise InputError(f"s3://{self.bucket} has no backup {name}; it has {self._names()}") from error
        try:
            manifest = Manifest.model_validate(json.loads(text))
        except (ValueError, ValidationError) as error:
            raise InputError(
                f"s3://{self.bucket}/{name}/manifest.json must be a manifest that `backup` wrote; received {error}"
            ) from error
        self._snapshots.check(manifest.snapshot)
        with translate_errors(self._aws.region):
            damaged = [
                expected.key for expected in manifest.objects if self._describe(f"{name}/artifacts/{expected.key}") != expected
            ]
        if damaged:
            raise InputError(
                f"backup {name} is damaged and was not restored: {len(damaged)} files are missing or changed, "
                f"for example {damaged[0]}; earlier versions of them are in the versioned bucket"
            )
        return manifest

    def restore_artifacts(self, manifest: Manifest) -> int:
        """Copies back each artifact that differs, and returns their number. Newer artifacts stay, as do replaced versions."""
        current = self._etags(self._stack.artifact_bucket)
        changed = [copy.key for copy in manifest.objects if current.get(copy.key) != copy.etag]
        with translate_errors(self._aws.region):
            for key in changed if not self._changes.dry_run else ():
                source = {"Bucket": self.bucket, "Key": f"{manifest.made_at}/artifacts/{key}"}
                self._s3.copy(source, self._stack.artifact_bucket, key)
        return len(changed)

    def _copy(self, key: str, name: str) -> CopiedObject | None:
        """Copies an artifact into backup `name`; None if it was deleted since it was listed."""
        source, target = {"Bucket": self._stack.artifact_bucket, "Key": key}, f"{name}/artifacts/{key}"
        try:
            self._s3.copy(source, self.bucket, target, ExtraArgs={"ChecksumAlgorithm": "SHA256"})
        except ClientError as error:
            if error.response["Error"]["Code"] not in OBJECT_NOT_FOUND:
                raise
            return None
        return self._describe(target)

    def _describe(self, key: str) -> CopiedObject | None:
        try:
            head: dict[str, Any] = self._s3.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
        except ClientError as error:
            if error.response["Error"]["Code"] not in OBJECT_NOT_FOUND:
                raise
            return None
        return CopiedObject(
            key=key.partition("/artifacts/")[2],
            size_bytes=head["ContentLength"],
            etag=head["ETag"],
            sha256=head.get("ChecksumSHA256"),
        )

    def _etags(self, bucket: str) -> dict[str, str]:
        """Key → ETag of all objects."""
        with translate_errors(self._aws.region):
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            return {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", [])}

    def _names(self) -> str:
        with translate_errors(self._aws.region):
            try:
                prefixes = self._s3.list_objects_v2(Bucket=self.bucket, Delimiter="/").get("CommonPrefixes", [])
            except ClientError:
                prefixes = []
        return ", ".join(prefix["Prefix"].rstrip("/") for prefix in prefixes) or "none"
