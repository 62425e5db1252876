"""Where the chain's newest entry is stored outside the database of decisions."""

from __future__ import annotations

import json
import re
from contextlib import closing
from typing import Any, Protocol

from atelier_registry.errors import AnchorUnavailableError
from atelier_registry.models.model_registry import ModelRegistry
from atelier_registry.storage.hash_chain import BrokenChainError

_PREFIX = "chain/"
_MAX_BODY_BYTES = 1000

Anchor = tuple[int, str]
"""Number and hash of an entry."""


class AnchorStore(Protocol):
    """Stores the newest entry.

    Attributes:
        name: for messages.
    """

    name: str

    def read(self) -> Anchor | None:
        """The newest entry that was stored; None before the first.

        Raises:
            BrokenChainError: what is stored was not written by this service.
            UnavailableError: the store does not answer.
        """

    def write(self, anchor: Anchor) -> None:
        """Stores a newer entry.

        Raises:
            UnavailableError: the store does not answer.
        """


class MlflowAnchorStore:
    """A tag `ENTRY:HASH` of a registered model in MLflow."""

    name = "MLflow"

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def read(self) -> Anchor | None:
        return parse_anchor(self._registry.chain_head())

    def write(self, anchor: Anchor) -> None:
        self._registry.set_chain_head(f"{anchor[0]}:{anchor[1]}")


class S3AnchorStore:
    """Objects `chain/<entry, 12 digits>` in an S3 bucket with object lock, whose default retention protects every version.

    A locked version cannot be deleted, but it can be hidden by a newer version or a delete marker, so both count as tampering.

    Args:
        bucket: name of the bucket.
        client: of S3; None: with the credentials and the region of the environment.
    """

    def __init__(self, bucket: str, client: Any = None) -> None:
        import boto3  # takes memory, which a service without this store does not need
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        self._errors = (ClientError, BotoCoreError)
        timeouts = Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 2})
        self._client = client or boto3.client("s3", config=timeouts)
        self._bucket, self.name = bucket, f"s3://{bucket}"
        self._newest: tuple[str, str] | None = None  # key and version id
        self._tampering = ""

    def read(self) -> Anchor | None:
        """Lists every object in the first call, and later only newer ones. Tampering is reported by every call after that."""
        if self._tampering:
            raise BrokenChainError(self._tampering)
        try:
            self._list_newer()
            return self._get(*self._newest) if self._newest else None
        except BrokenChainError as error:
            self._tampering = str(error)
            raise
        except self._errors as error:
            raise AnchorUnavailableError(self.name) from error

    def write(self, anchor: Anchor) -> None:
        """Another process may have stored the same entry. Raises also `BrokenChainError` where it stored another hash."""
        key = _key(anchor[0])
        body = json.dumps({"entry": anchor[0], "hash": anchor[1]}).encode()
        try:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=body, ContentType="application/json", IfNoneMatch="*")
        except self._errors as error:
            if getattr(error, "response", {}).get("Error", {}).get("Code") != "PreconditionFailed":
                raise AnchorUnavailableError(self.name) from error
            self._check_equal(key, anchor)

    def _check_equal(self, key: str, anchor: Anchor) -> None:
        try:
            stored = self._get(key)
        except self._errors as error:
            raise AnchorUnavailableError(self.name) from error
        if stored != anchor:
            raise BrokenChainError(f"{self.name}/{key} holds the hash {stored[1]}, but the entry has {anchor[1]}")

    def _list_newer(self) -> None:
        position = {"KeyMarker": self._newest[0]} if self._newest else {}
        while True:
            page = self._client.list_object_versions(Bucket=self._bucket, Prefix=_PREFIX, **position)
            for marker in page.get("DeleteMarkers", []):
                raise BrokenChainError(f"{self.name}/{marker['Key']} was deleted")
            for version in page.get("Versions", []):
                key = version["Key"]
                if not re.fullmatch(_PREFIX + r"\d{12}", key):
                    raise BrokenChainError(f"{self.name}/{key} was not written by this service")
                if self._newest and key == self._newest[0]:
                    raise BrokenChainError(f"{self.name}/{key} was overwritten")
                self._newest = key, version["VersionId"]
            if not page.get("IsTruncated"):
                return
            position = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}

    def _get(self, key: str, version_id: str | None = None) -> Anchor:
        version = {"VersionId": version_id} if version_id else {}
        with closing(self._client.get_object(Bucket=self._bucket, Key=key, **version)["Body"]) as stream:
            body = stream.read(_MAX_BODY_BYTES)
        try:
            content = json.loads(body)
            anchor = parse_anchor(f"{content['entry']}:{content['hash']}")
        except (ValueError, KeyError, TypeError):
            anchor = None
        if anchor is None or _key(anchor[0]) != key:
            raise BrokenChainError(f"{self.name}/{key} must hold the entry and hash of its name; received {body[:100]!r}")
        return anchor


def _key(entry: int) -> str:
    return f"{_PREFIX}{entry:012d}"


def parse_anchor(text: str | None) -> Anchor | None:
    """Raises `BrokenChainError` for text that is not `ENTRY:HASH`."""
    if text is None:
        return None
    if (match := re.fullmatch(r"([1-9][0-9]{0,18}):([0-9a-f]{64})", text)) is None:
        raise BrokenChainError(f"the anchor must be ENTRY:HASH; received {text[:100]!r}")
    return int(match[1]), match[2]
