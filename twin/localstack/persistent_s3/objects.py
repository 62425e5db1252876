"""The bytes of objects: one file per upload, never changed once an object references it."""

from __future__ import annotations

import shutil
import uuid
from io import BufferedRandom, BufferedReader, FileIO
from pathlib import Path
from typing import Any, Literal

from localstack.aws.api.s3 import NoSuchKey
from localstack.services.s3.models import S3Multipart, S3Object, S3Part
from localstack.services.s3.storage.core import S3ObjectStore, should_copy_in_place
from localstack.services.s3.storage.ephemeral import (
    EphemeralS3StoredMultipart,
    EphemeralS3StoredObject,
    LockedFileMixin,
)

from persistent_s3.atomic_files import fsync


class LockedReader(LockedFileMixin, BufferedReader):
    """A file opened for reading, with the locks that LocalStack expects."""


class LockedWriter(LockedFileMixin, BufferedRandom):
    """A file opened for writing and reading back."""


class ObjectFile(EphemeralS3StoredObject):
    """The open file of an object or of a part; LocalStack's class copies and computes checksums."""

    def __init__(self, s3_object: S3Object | S3Part, path: Path, mode: Literal["r", "w"]) -> None:
        self._path = path
        file = LockedWriter(FileIO(path, "w+")) if mode == "w" else LockedReader(FileIO(path, "r"))
        super().__init__(s3_object, file, mode)

    def close(self) -> None:
        """Closes the file; after writing, also flushes it to the disk."""
        if self.closed:
            return
        super().close()
        self.file.close()
        if self._mode == "w" and self._path.exists():
            fsync(self._path)

    def __exit__(self, *exception: Any) -> None:
        """Closes the file; removes it if writing failed."""
        self.close()
        if self._mode == "w" and exception[0] is not None:
            self._path.unlink(missing_ok=True)

    @property
    def last_modified(self) -> int:
        """That of the object, since its bytes never change."""
        return int(self.s3_object.internal_last_modified)


class Upload(EphemeralS3StoredMultipart):
    def open(self, s3_part: S3Part, mode: Literal["r", "w"] = "r") -> ObjectFile:
        return ObjectFile(s3_part, self._path(s3_part), mode)

    def remove_part(self, s3_part: S3Part) -> None:
        self._path(s3_part).unlink(missing_ok=True)

    def close(self) -> None:
        shutil.rmtree(self.upload_dir, ignore_errors=True)

    def _path(self, part: S3Part) -> Path:
        return Path(self.upload_dir) / str(part.part_number)


class ObjectFiles(S3ObjectStore):
    """Stores objects as `<root>/<bucket>/bodies/<random>` and parts as `<root>/<bucket>/uploads/<id>/<number>`."""

    def __init__(self, root: Path) -> None:
        self.root_directory = str(root)
        self._root = root

    def open(self, bucket: str, s3_object: S3Object, mode: Literal["r", "w"] = "r") -> ObjectFile:
        """Opens the file of an object; writing always creates a new file, so that readers of the old one are not affected.

        Raises:
            NoSuchKey: the object was deleted or replaced since it was looked up.
        """
        if mode == "w":
            s3_object.body = uuid.uuid4().hex
        try:
            return ObjectFile(s3_object, self.path(bucket, s3_object), mode)
        except FileNotFoundError as error:
            raise NoSuchKey("The specified key does not exist.", Key=s3_object.key) from error

    def remove(self, bucket: str, s3_object: S3Object | list[S3Object]) -> None:
        """Removes the bytes of one or several objects."""
        for item in s3_object if isinstance(s3_object, list) else [s3_object]:
            self.path(bucket, item).unlink(missing_ok=True)

    def copy(self, src_bucket: str, src_object: S3Object, dest_bucket: str, dest_object: S3Object) -> ObjectFile:
        """Copies the bytes; a copy onto itself, which changes metadata only, shares them."""
        if should_copy_in_place(src_bucket, src_object, dest_bucket, dest_object):
            dest_object.body, dest_object.internal_last_modified = src_object.body, src_object.internal_last_modified
            return self.open(dest_bucket, dest_object)
        with self.open(src_bucket, src_object) as source:
            target = self.open(dest_bucket, dest_object, "w")
            target.write(source)
        return target

    def get_multipart(self, bucket: str, upload_id: S3Multipart) -> Upload:
        """The upload; its folder is created if necessary."""
        folder = self._upload(bucket, upload_id)
        folder.mkdir(parents=True, exist_ok=True)
        return Upload(self, bucket, upload_id, str(folder))

    def remove_multipart(self, bucket: str, s3_multipart: S3Multipart) -> None:
        shutil.rmtree(self._upload(bucket, s3_multipart), ignore_errors=True)

    def path(self, bucket: str, s3_object: S3Object) -> Path:
        return self._root / bucket / "bodies" / str(s3_object.body)

    def _upload(self, bucket: str, upload: S3Multipart) -> Path:
        return self._root / bucket / "uploads" / str(upload.id)
