"""The twin's S3: acknowledged writes survive SIGKILL, and unfinished ones leave nothing behind."""

from __future__ import annotations

import hashlib
import io
import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ..containers import Project, docker, until

pytestmark = [pytest.mark.twin, pytest.mark.timeout(900)]

BUCKET = "atelier"
PARTS = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=2)


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    project = Project("atelier-persistent-s3")
    project.remove()
    project.compose("up", "--detach", "--wait", "--no-deps", "localstack")
    yield project
    project.remove()


@pytest.fixture(scope="module")
def s3(project: Project) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=project.url("S3_PORT"),
        aws_access_key_id="anybody",
        aws_secret_access_key="anything",
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}, connect_timeout=5, read_timeout=60),
    )


def kill(project: Project, s3: Any) -> None:
    project.kill("localstack")
    until("the bucket after SIGKILL", lambda: s3.head_bucket(Bucket=BUCKET))


def all_objects(s3: Any) -> dict[str, tuple[object, ...]]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    objects = {}
    for listed in (item for page in pages for item in page.get("Contents", [])):
        response = s3.get_object(Bucket=BUCKET, Key=listed["Key"])
        digest = hashlib.sha256(response["Body"].read()).hexdigest()
        objects[listed["Key"]] = (
            digest,
            response["ETag"],
            response["ContentType"],
            response["Metadata"],
            response["LastModified"],
            listed["Size"],
        )
    return objects  # type: ignore[return-value]


def test_acknowledged_writes_survive_a_kill(project: Project, s3: Any) -> None:
    body = os.urandom(17_000_000)
    s3.put_object(Bucket=BUCKET, Key="a b/é.txt", Body=b"hello", Metadata={"made-by": "a test"}, ContentType="text/plain")
    for text in (b"one", b"two and more"):
        s3.put_object(Bucket=BUCKET, Key="overwritten", Body=text)
    s3.upload_fileobj(io.BytesIO(body), BUCKET, "parts", Config=PARTS)
    s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": "parts"})
    new_metadata = {"Metadata": {"n": "1"}, "MetadataDirective": "REPLACE"}
    s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": "copy"}, **new_metadata)
    for number in range(6):
        s3.put_object(Bucket=BUCKET, Key=f"many/{number}", Body=b"x" * number)
    s3.delete_object(Bucket=BUCKET, Key="many/0")
    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "many/1"}, {"Key": "many/2"}]})
    before = all_objects(s3)
    assert sorted(before) == ["a b/é.txt", "copy", "many/3", "many/4", "many/5", "overwritten", "parts"]
    kill(project, s3)
    assert all_objects(s3) == before
    assert before["copy"][3] == {"n": "1"}
    ranged = s3.get_object(Bucket=BUCKET, Key="parts", Range="bytes=5242870-5242890")["Body"].read()
    assert ranged == body[5242870:5242891]
    assert s3.get_object(Bucket=BUCKET, Key="parts", PartNumber=2)["ContentLength"] == 5 << 20


def test_created_and_deleted_buckets_survive_a_kill(project: Project, s3: Any) -> None:
    for name in ("stays", "goes"):
        s3.create_bucket(Bucket=name)
    s3.delete_bucket(Bucket="goes")
    kill(project, s3)
    assert {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]} == {BUCKET, "stays"}


class Writer(threading.Thread):
    """Uploads, overwrites and deletes until stopped; records acknowledged and pending changes (SHA-256, or None if deleted)."""

    def __init__(self, s3: Any, name: str, parts: bool) -> None:
        super().__init__(name=name, daemon=True)
        self.s3, self.parts, self.random = s3, parts, random.Random(name)
        self.acknowledged: dict[str, str | None] = {}
        self.pending: dict[str, set[str | None]] = {}
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.is_set():
            key = f"{self.name}/{self.random.randrange(4)}"
            size = self.random.randrange(11_000_000, 16_000_000) if self.parts else self.random.randrange(2_000_000)
            body = None if self.random.random() < 0.2 else self.random.randbytes(size)
            digest = None if body is None else hashlib.sha256(body).hexdigest()
            self.pending.setdefault(key, set()).add(digest)
            try:
                if body is None:
                    self.s3.delete_object(Bucket=BUCKET, Key=key)
                elif self.parts:
                    self.s3.upload_fileobj(io.BytesIO(body), BUCKET, key, Config=PARTS)
                else:
                    self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)
            except (BotoCoreError, ClientError):
                time.sleep(0.3)
                continue
            self.acknowledged[key], self.pending[key] = digest, set()


def test_kills_during_uploads_lose_no_acknowledged_write(project: Project, s3: Any) -> None:
    writers = [Writer(s3, "whole", parts=False), Writer(s3, "parts", parts=True)]
    pause = random.Random(5)
    for writer in writers:
        writer.start()
    for _ in range(3):
        time.sleep(pause.uniform(1.0, 4.0))
        kill(project, s3)
    for writer in writers:
        writer.stopping.set()
        writer.join(120)
        assert len(writer.acknowledged) == 4, "too few writes succeeded for the test to be conclusive"
    kill(project, s3)
    objects = {key: fields[0] for key, fields in all_objects(s3).items()}
    for writer in writers:
        for key, digest in writer.acknowledged.items():
            assert objects.get(key) in {digest, *writer.pending[key]}, (
                f"{key} is neither the acknowledged nor a pending version"
            )
    folder = f"/var/lib/localstack/kept-s3/{BUCKET}"
    object_files = project.compose("exec", "-T", "localstack", "ls", f"{folder}/bodies").split()
    assert len(object_files) == len(objects), "bytes without an object were left behind"


def test_operations_that_are_not_persistent_are_refused(s3: Any) -> None:
    versions = {"Status": "Enabled"}
    for call in (
        lambda: s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration=versions),
        lambda: s3.put_object_tagging(Bucket=BUCKET, Key="copy", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]}),
        lambda: s3.put_object(Bucket=BUCKET, Key="tagged", Body=b"", Tagging="a=b"),
        lambda: s3.put_bucket_policy(Bucket=BUCKET, Policy="{}"),
    ):
        with pytest.raises(ClientError, match="lost at the next restart") as refused:
            call()
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501


def test_an_object_larger_than_the_containers_memory_is_stored(project: Project, s3: Any) -> None:
    chunk, count = os.urandom(1 << 20), 1100  # MiB; the container may use 1024

    class Chunks(io.RawIOBase):
        sent = 0

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            number = max(0, min(size // len(chunk), count - self.sent))
            self.sent += number
            return chunk * number

    s3.upload_fileobj(Chunks(), BUCKET, "large", Config=TransferConfig(multipart_chunksize=16 << 20, max_concurrency=2))
    digest, expected = hashlib.sha256(), hashlib.sha256()
    for _ in range(count):
        expected.update(chunk)
    for received in s3.get_object(Bucket=BUCKET, Key="large")["Body"].iter_chunks(1 << 20):
        digest.update(received)
    assert digest.digest() == expected.digest()
    container = project.compose("ps", "--quiet", "localstack").strip()
    state = docker("inspect", "--format", "{{.State.OOMKilled}} {{.HostConfig.Memory}}", container).stdout.split()
    assert state == ["false", str(1 << 30)]
    s3.delete_object(Bucket=BUCKET, Key="large")
