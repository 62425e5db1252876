"""What is known of buckets and objects, one JSON file each, written before LocalStack answers."""

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

from persistent_s3.atomic_files import PART, flush, remove, write_json
from persistent_s3.objects import ObjectFiles

BUCKET_FACTS = ("name", "bucket_account_id", "bucket_region", "location_constraint", "creation_date", "owner", "acl")
DATE = "$date"
LINGER_S = 60.0
"""A replaced object's bytes stay so long for readers who looked it up and have not opened it yet; a later write drops them."""


class PersistentKeys(KeyStore):
    """The keys of one bucket. LocalStack sets and pops them inside each request, which is where they are written down."""

    def __init__(self, bucket: str, folder: Path, object_files: ObjectFiles) -> None:
        super().__init__()
        self._bucket, self._folder, self._object_files = bucket, folder, object_files
        self._lock = threading.Lock()
        self._replaced: deque[tuple[float, S3Object]] = deque()

    def set(self, object_key: str, s3_object: S3Object) -> None:
        """From here on the key means this object, also after a kill; before, it means what it meant."""
        with self._lock:
            before = self.get(object_key)
            write_json(self._file(object_key), {name: _plain(value) for name, value in vars(s3_object).items()})
            super().set(object_key, s3_object)
            if before is not None and before.body != s3_object.body:
                self._replaced.append((time.monotonic(), before))
            self._drop_replaced()

    def pop(self, object_key: str, default: Any = None) -> Any:
        """From here on the key means nothing."""
        with self._lock:
            remove(self._file(object_key))
            return super().pop(object_key, default)

    def restore(self) -> None:
        """Reads what was kept, and drops what no object names: bodies and parts of uploads that were never finished."""
        for file in self._folder.joinpath("objects").iterdir():
            if file.suffix == PART:
                file.unlink()
                continue
            kept = S3Object(key="")
            vars(kept).update({name: _rich(value) for name, value in json.loads(file.read_text()).items()})
            self._store[kept.key] = kept
        named = {kept.body for kept in self._store.values()}
        for body in self._folder.joinpath("bodies").iterdir():
            if body.name not in named:
                body.unlink()
        shutil.rmtree(self._folder / "uploads", ignore_errors=True)

    def _drop_replaced(self) -> None:
        while self._replaced and time.monotonic() - self._replaced[0][0] > LINGER_S:
            _, old = self._replaced.popleft()
            now = self.get(old.key)
            if now is None or now.body != old.body:  # an object copied onto itself meanwhile has the same bytes
                self._object_files.remove(self._bucket, old)

    def _file(self, key: str) -> Path:
        return self._folder / "objects" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


class PersistentBuckets:
    """`<root>/<bucket>/bucket.json`, and a folder each for what is known of objects and for their bytes."""

    def __init__(self, root: Path, object_files: ObjectFiles) -> None:
        self._root, self._object_files = root, object_files

    def keep(self, bucket: S3Bucket) -> None:
        """Makes the folders of a new bucket; `bucket.json` comes last, so a bucket is there completely or not at all."""
        folder = self._root / bucket.name
        for part in ("objects", "bodies"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        bucket.objects = PersistentKeys(bucket.name, folder, self._object_files)
        write_json(folder / "bucket.json", {name: _plain(getattr(bucket, name)) for name in BUCKET_FACTS})
        flush(self._root)

    def drop(self, name: str) -> None:
        remove(self._root / name / "bucket.json")
        shutil.rmtree(self._root / name)

    def restored(self) -> Iterator[S3Bucket]:
        """Every bucket that was kept, with its objects."""
        for folder in sorted(self._root.iterdir()):
            if not (folder / "bucket.json").exists():
                shutil.rmtree(folder)
                continue
            facts = {name: _rich(value) for name, value in json.loads((folder / "bucket.json").read_text()).items()}
            bucket = S3Bucket(
                name=facts["name"],
                account_id=facts["bucket_account_id"],
                bucket_region=facts["bucket_region"],
                owner=facts["owner"],
                acl=facts["acl"],
                location_constraint=facts["location_constraint"],
            )
            bucket.creation_date = facts["creation_date"]
            bucket.objects = PersistentKeys(bucket.name, folder, self._object_files)
            bucket.objects.restore()
            yield bucket


def _plain(value: Any) -> Any:
    """A value as JSON takes it; json.dumps refuses what is of any other kind."""
    return {DATE: value.isoformat()} if isinstance(value, datetime) else value


def _rich(value: Any) -> Any:
    return datetime.fromisoformat(value[DATE]) if isinstance(value, dict) and value.keys() == {DATE} else value
