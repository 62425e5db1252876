"""Metadata of buckets and objects: one JSON file each, written before LocalStack responds."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from localstack.services.s3.models import KeyStore, S3Bucket, S3Object

from persistent_s3.atomic_files import PART, fsync, remove, write_json
from persistent_s3.objects import ObjectFiles

BUCKET_FIELDS = ("name", "bucket_account_id", "bucket_region", "location_constraint", "creation_date", "owner", "acl")
DATE_KEY = "$date"
REMOVAL_DELAY_S = 60.0
"""How long the bytes of replaced objects are kept for readers that have looked them up but not opened them yet."""


class PersistentKeys(KeyStore):
    """The keys of one bucket; LocalStack sets and pops them during a request, and this class stores them."""

    def __init__(self, bucket: str, folder: Path, object_files: ObjectFiles) -> None:
        super().__init__()
        self._bucket, self._folder, self._object_files = bucket, folder, object_files
        self._lock = threading.Lock()
        self._replaced: deque[tuple[float, S3Object]] = deque()

    def set(self, object_key: str, s3_object: S3Object) -> None:
        """Stores the object durably: after a kill the key has either the old or the new object."""
        with self._lock:
            previous = self.get(object_key)
            write_json(self._file(object_key), {name: _to_json(value) for name, value in vars(s3_object).items()})
            super().set(object_key, s3_object)
            if previous is not None and previous.body != s3_object.body:
                self._replaced.append((time.monotonic(), previous))
            self._remove_replaced()

    def pop(self, object_key: str, default: Any = None) -> Any:
        """Removes the key durably."""
        with self._lock:
            remove(self._file(object_key))
            return super().pop(object_key, default)

    def restore(self) -> None:
        """Loads stored objects, and removes bytes without an object: replaced bodies and unfinished uploads."""
        for file in self._folder.joinpath("objects").iterdir():
            if file.suffix == PART:
                file.unlink()
                continue
            s3_object = S3Object(key="")
            vars(s3_object).update({name: _from_json(value) for name, value in json.loads(file.read_text()).items()})
            self._store[s3_object.key] = s3_object
        referenced = {s3_object.body for s3_object in self._store.values()}
        for body in self._folder.joinpath("bodies").iterdir():
            if body.name not in referenced:
                body.unlink()
        shutil.rmtree(self._folder / "uploads", ignore_errors=True)

    def _remove_replaced(self) -> None:
        while self._replaced and time.monotonic() - self._replaced[0][0] > REMOVAL_DELAY_S:
            _, replaced = self._replaced.popleft()
            current = self.get(replaced.key)
            if current is None or current.body != replaced.body:  # an object that was copied onto itself shares the bytes
                self._object_files.remove(self._bucket, replaced)

    def _file(self, key: str) -> Path:
        return self._folder / "objects" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


class PersistentBuckets:
    """Stores buckets as `<root>/<bucket>/bucket.json`, `objects/` (metadata) and `bodies/` (bytes)."""

    def __init__(self, root: Path, object_files: ObjectFiles) -> None:
        self._root, self._object_files = root, object_files

    def add(self, bucket: S3Bucket) -> None:
        """Stores a new bucket; `bucket.json` is written last, so that a bucket is stored completely or not at all."""
        folder = self._root / bucket.name
        for subfolder in ("objects", "bodies"):
            (folder / subfolder).mkdir(parents=True, exist_ok=True)
        bucket.objects = PersistentKeys(bucket.name, folder, self._object_files)
        write_json(folder / "bucket.json", {name: _to_json(getattr(bucket, name)) for name in BUCKET_FIELDS})
        fsync(self._root)

    def remove(self, name: str) -> None:
        remove(self._root / name / "bucket.json")
        shutil.rmtree(self._root / name)

    def load(self) -> Iterator[S3Bucket]:
        """Yields all stored buckets with their objects, and removes incomplete ones."""
        for folder in sorted(self._root.iterdir()):
            if not (folder / "bucket.json").exists():
                shutil.rmtree(folder)
                continue
            fields = {name: _from_json(value) for name, value in json.loads((folder / "bucket.json").read_text()).items()}
            bucket = S3Bucket(
                name=fields["name"],
                account_id=fields["bucket_account_id"],
                bucket_region=fields["bucket_region"],
                owner=fields["owner"],
                acl=fields["acl"],
                location_constraint=fields["location_constraint"],
            )
            bucket.creation_date = fields["creation_date"]
            bucket.objects = PersistentKeys(bucket.name, folder, self._object_files)
            bucket.objects.restore()
            yield bucket


def _to_json(value: Any) -> Any:
    """Encodes dates; json.dumps refuses other types that JSON does not have."""
    return {DATE_KEY: value.isoformat()} if isinstance(value, datetime) else value


def _from_json(value: Any) -> Any:
    return datetime.fromisoformat(value[DATE_KEY]) if isinstance(value, dict) and value.keys() == {DATE_KEY} else value
