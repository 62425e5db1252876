"""LocalStack's S3 provider with persistent buckets; refuses operations whose effect would be lost at a restart."""

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
PERSISTENT = frozenset(
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
"""Operations with a persistent effect, or with none until another of them completes it."""

UNSUPPORTED_PARAMETERS = (
    "Tagging",
    "ObjectLockMode",
    "ObjectLockLegalHoldStatus",
    "ObjectLockEnabledForBucket",
    "ObjectOwnership",
)
"""Parameters of these operations whose effect would be lost."""


class PersistentS3Provider(provider.S3Provider):
    """Responds to a write after it is on the disk."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        object_files = ObjectFiles(root)
        super().__init__(object_files)
        self._buckets = PersistentBuckets(root, object_files)
        for bucket in self._buckets.load():
            store = s3_stores[bucket.bucket_account_id][bucket.bucket_region]
            store.buckets[bucket.name] = bucket
            store.global_bucket_map[bucket.name] = bucket.bucket_account_id

    def create_bucket(self, context: RequestContext, request: Any) -> Any:
        """Creates and stores the bucket."""
        _refuse_parameters(request)
        exists = request["Bucket"] in s3_stores[context.account_id][context.region].global_bucket_map
        response = super().create_bucket(context, request)
        if not exists:
            _, bucket = self._get_cross_account_bucket(context, request["Bucket"])
            self._buckets.add(bucket)
        return response

    def delete_bucket(self, context: RequestContext, bucket: str, expected_bucket_owner: Any = None, **others: Any) -> None:
        super().delete_bucket(context, bucket, expected_bucket_owner, **others)
        self._buckets.remove(bucket)

    def put_object(self, context: RequestContext, request: Any) -> Any:
        """Checks the parameters; `PersistentKeys.set` stores the object."""
        _refuse_parameters(request)
        return super().put_object(context, request)

    def copy_object(self, context: RequestContext, request: Any) -> Any:
        """Checks the parameters; `PersistentKeys.set` stores the object."""
        _refuse_parameters(request)
        return super().copy_object(context, request)

    def create_multipart_upload(self, context: RequestContext, request: Any) -> Any:
        """Checks the parameters; the object is stored when the upload is completed."""
        _refuse_parameters(request)
        return super().create_multipart_upload(context, request)


def _not_persistent(what: str) -> CommonServiceException:
    message = f"{what} is refused, because it would be lost at the next restart of this S3"
    return CommonServiceException("NotImplemented", message, status_code=501)


def _refuse_parameters(request: Any) -> None:
    for name in UNSUPPORTED_PARAMETERS:
        if request.get(name):
            raise _not_persistent(f"{name}={request[name]}")


def _refusing(operation: str) -> Callable[..., None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise _not_persistent(operation)

    return refuse


def install(root: Path) -> None:
    """Replaces LocalStack's S3 provider, which is created at the first request.

    Args:
        root: folder on a volume.
    """
    for name, function in inspect.getmembers(S3Api, inspect.isfunction):
        operation = getattr(function, "operation", None)
        if operation and operation not in PERSISTENT and not operation.startswith(READS):
            setattr(PersistentS3Provider, name, _refusing(operation))
    provider.S3Provider = lambda: PersistentS3Provider(root)
