"""The bucket that tracking keeps files in, as the jobs `backup` and `restore` read and write it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from atelier_twin.backups.manifest import Piece
from atelier_twin.secrets import Secrets


class Bucket:
    """One bucket; errors are botocore's."""

    def __init__(self, made: Secrets, environment: Mapping[str, str]) -> None:
        """Connects at the first call.

        Args:
            made: with the two keys.
            environment: S3_BUCKET, S3_REGION and S3_ENDPOINT_URL.
        """
        import boto3
        from botocore.config import Config

        self._name = environment["S3_BUCKET"]
        self._s3: Any = boto3.client(
            "s3",
            endpoint_url=environment["S3_ENDPOINT_URL"] or None,
            region_name=environment["S3_REGION"],
            aws_access_key_id=made.s3_access_key_id,
            aws_secret_access_key=made.s3_secret_access_key,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 5}),
        )

    def __iter__(self) -> Iterator[str]:
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._name):
            for listed in page.get("Contents", []):
                yield listed["Key"]

    def download(self, key: str, path: Path) -> tuple[str, dict[str, str]] | None:
        """Writes an object's bytes to a file.

        Returns:
            Its content type and metadata; None where it was deleted since it was listed.
        """
        try:
            got = self._s3.get_object(Bucket=self._name, Key=key)
        except self._s3.exceptions.NoSuchKey:
            return None
        with path.open("wb") as file:
            for chunk in got["Body"].iter_chunks(1 << 20):
                file.write(chunk)
        return got["ContentType"], got["Metadata"]

    def upload(self, path: Path, piece: Piece) -> None:
        """Makes an object of a file, of any size."""
        described = {"ContentType": piece.content_type, "Metadata": piece.metadata}
        self._s3.upload_file(str(path), self._name, piece.key, ExtraArgs=described)

    def delete(self, key: str) -> None:
        self._s3.delete_object(Bucket=self._name, Key=key)
