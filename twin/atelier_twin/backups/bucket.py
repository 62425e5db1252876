"""Reads and writes tracking's bucket for `backup` and `restore`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from atelier_twin.backups.manifest import BackupFile
from atelier_twin.secrets import Secrets


class Bucket:
    """The objects of one bucket; iterating it yields the keys. Raises botocore's errors."""

    def __init__(self, secrets: Secrets, environment: Mapping[str, str]) -> None:
        """Reads S3_BUCKET, S3_REGION and S3_ENDPOINT_URL; connects at the first call."""
        import boto3
        from botocore.config import Config

        self._name = environment["S3_BUCKET"]
        self._s3: Any = boto3.client(
            "s3",
            endpoint_url=environment["S3_ENDPOINT_URL"] or None,
            region_name=environment["S3_REGION"],
            aws_access_key_id=secrets.s3_access_key_id,
            aws_secret_access_key=secrets.s3_secret_access_key,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 5}),
        )

    def __iter__(self) -> Iterator[str]:
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._name):
            for item in page.get("Contents", []):
                yield item["Key"]

    def download(self, key: str, path: Path) -> tuple[str, dict[str, str]] | None:
        """Writes an object to a file.

        Returns:
            Content type and metadata; None if the object was deleted since it was listed.
        """
        try:
            response = self._s3.get_object(Bucket=self._name, Key=key)
        except self._s3.exceptions.NoSuchKey:
            return None
        with path.open("wb") as file:
            for chunk in response["Body"].iter_chunks(1 << 20):
                file.write(chunk)
        return response["ContentType"], response["Metadata"]

    def upload(self, path: Path, file: BackupFile) -> None:
        """Uploads a file of any size, with its key, content type and metadata."""
        headers = {"ContentType": file.content_type, "Metadata": file.metadata}
        self._s3.upload_file(str(path), self._name, file.key, ExtraArgs=headers)

    def delete(self, key: str) -> None:
        self._s3.delete_object(Bucket=self._name, Key=key)
