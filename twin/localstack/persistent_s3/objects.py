"""The bytes of objects: a file of its own for each upload, never written to again once an object names it."""

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

from persistent_s3.atomic_files import flush


class _Read(LockedFileMixin, BufferedReader):
    """An open file with the locks that LocalStack's readers expect; each opening has locks of its own."""


class _Written(LockedFileMixin, BufferedRandom):
    """The same for writers, who read back what they wrote."""


class ObjectFile(EphemeralS3StoredObject):
    """An object's or a part's bytes, opened. LocalStack's class does the copying and the checksums."""

    def __init__(self, described: S3Object | S3Part, path: Path, mode: Literal["r", "w"]) -> None:
        self._path = path
        file = _Written(FileIO(path, "w+")) if mode == "w" else _Read(FileIO(path, "r"))
        super().__init__(described, file, mode)

    def close(self) -> None:
        """Closes the file; one that was written is on the disk from then on."""
        if self.closed:
            return
        super().close()
        self.file.close()
        if self._mode == "w" and self._path.exists():
            flush(self._path)

    def __exit__(self, *failure: Any) -> None:
        """Leaves nothing of an upload that failed."""
        self.close()
        if self._mode == "w" and failure[0] is not None:
            self._path.unlink(missing_ok=True)

    @property
    def last_modified(self) -> int:
        """As the object says: a body never changes."""
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
    """`<root>/<bucket>/bodies/<random>` for each object and `<root>/<bucket>/uploads/<id>/<number>` for each part."""

    def __init__(self, root: Path) -> None:
        self.root_directory = str(root)
        self._root = root

    def open(self, bucket: str, s3_object: S3Object, mode: Literal["r", "w"] = "r") -> ObjectFile:
        """Opens an object's bytes; for writing always in a new file, so that readers of the old one are not disturbed.

        Raises:
            NoSuchKey: the object was deleted or replaced a moment ago.
        """
        if mode == "w":
            s3_object.body = uuid.uuid4().hex
        try:
            return ObjectFile(s3_object, self.path(bucket, s3_object), mode)
        except FileNotFoundError as error:
            raise NoSuchKey("The specified key does not exist.", Key=s3_object.key) from error

    def remove(self, bucket: str, s3_object: S3Object | list[S3Object]) -> None:
        """Drops the bytes of objects that nothing names any more."""
        for each in s3_object if isinstance(s3_object, list) else [s3_object]:
            self.path(bucket, each).unlink(missing_ok=True)

    def copy(self, src_bucket: str, src_object: S3Object, dest_bucket: str, dest_object: S3Object) -> ObjectFile:
        """Copies bytes; where only an object's description changes, both share them."""
        if should_copy_in_place(src_bucket, src_object, dest_bucket, dest_object):
            dest_object.body, dest_object.internal_last_modified = src_object.body, src_object.internal_last_modified
            return self.open(dest_bucket, dest_object)
        with self.open(src_bucket, src_object) as source:
            copied = self.open(dest_bucket, dest_object, "w")
            copied.write(source)
        return copied

    def get_multipart(self, bucket: str, upload_id: S3Multipart) -> Upload:
        """The parts of an upload, whether or not there are any yet."""
        folder = self._upload(bucket, upload_id)
        folder.mkdir(parents=True, exist_ok=True)
        return Upload(self, bucket, upload_id, str(folder))

    def remove_multipart(self, bucket: str, s3_multipart: S3Multipart) -> None:
        shutil.rmtree(self._upload(bucket, s3_multipart), ignore_errors=True)

    def path(self, bucket: str, described: S3Object) -> Path:
        return self._root / bucket / "bodies" / str(described.body)

    def _upload(self, bucket: str, upload: S3Multipart) -> Path:
        return self._root / bucket / "uploads" / str(upload.id)
