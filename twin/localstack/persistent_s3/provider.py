"""LocalStack's S3 provider with persistent buckets. Operations whose effect would be lost at a restart are refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from localstack.aws.api import CommonServiceException, RequestContext
from localstack.aws.api.s3 import S3Api
from localstack.services.s3 import provider
from localstack.services.s3.models import s3_stores

from persistent_s3.metadata import PersistentBuckets
from persistent_s3.objects import ObjectFiles

READS = ("Get", "Head", "List")
KEPT = frozenset(
    {
        "AbortMultipartUpload",
        "CompleteMultipartUpload",
        "CopyObject",
        "CreateBucket",
        "CreateMultipartUpload",
        "DeleteBucket",
        "DeleteObject",
        "DeleteObjects",
        "PutObject",
        "UploadPart",
        "UploadPartCopy",
    }
)
"""Operations whose effect is kept, or has none before another one of them."""

NOT_KEPT = ("Tagging", "ObjectLockMode", "ObjectLockLegalHoldStatus", "ObjectLockEnabledForBucket", "ObjectOwnership")
"""Parameters of these operations that would be forgotten."""


class PersistentS3Provider(provider.S3Provider):
    """Answers a write when it is on the disk."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        object_files = ObjectFiles(root)
        super().__init__(object_files)
        self._buckets = PersistentBuckets(root, object_files)
        for bucket in self._buckets.restored():
            store = s3_stores[bucket.bucket_account_id][bucket.bucket_region]
            store.buckets[bucket.name] = bucket
            store.global_bucket_map[bucket.name] = bucket.bucket_account_id

    def create_bucket(self, context: RequestContext, request: Any) -> Any:
        """Refuses what is not persistent, then creates the bucket and stores it."""
        _refuse_parameters(request)
        known = request["Bucket"] in s3_stores[context.account_id][context.region].global_bucket_map
        answer = super().create_bucket(context, request)
        if not known:
            _, bucket = self._get_cross_account_bucket(context, request["Bucket"])
            self._buckets.keep(bucket)
        return answer

    def delete_bucket(self, context: RequestContext, bucket: str, expected_bucket_owner: Any = None, **others: Any) -> None:
        super().delete_bucket(context, bucket, expected_bucket_owner, **others)
        self._buckets.drop(bucket)

    def put_object(self, context: RequestContext, request: Any) -> Any:
        """Refuses what is not persistent; the rest is done by `PersistentKeys.set`."""
        _refuse_parameters(request)
        return super().put_object(context, request)

    def copy_object(self, context: RequestContext, request: Any) -> Any:
        """Refuses what is not persistent; the rest is done by `PersistentKeys.set`."""
        _refuse_parameters(request)
        return super().copy_object(context, request)

    def create_multipart_upload(self, context: RequestContext, request: Any) -> Any:
        """Refuses what is not persistent; an upload is stored once it is complete."""
        _refuse_parameters(request)
        return super().create_multipart_upload(context, request)


def _not_persistent(what: str) -> CommonServiceException:
    message = f"{what} would be lost at the next restart of this S3 and is refused"
    return CommonServiceException("NotImplemented", message, status_code=501)


def _refuse_parameters(request: Any) -> None:
    for name in NOT_KEPT:
        if request.get(name):
            raise _not_persistent(f"{name}={request[name]}")


def _refusing(operation: str) -> Callable[..., None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise _not_persistent(operation)

    return refuse


def install(root: Path) -> None:
    """Makes LocalStack build this provider, which it does at the first request for S3.

    Args:
        root: a folder on a volume.
    """
    for name, function in inspect.getmembers(S3Api, inspect.isfunction):
        operation = getattr(function, "operation", None)
        if operation and operation not in KEPT and not operation.startswith(READS):
            setattr(PersistentS3Provider, name, _refusing(operation))
    provider.S3Provider = lambda: PersistentS3Provider(root)
