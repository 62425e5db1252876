"""The second anchor: objects in S3 that nobody can change, for whoever holds the database and MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from atelier_registry.cli import main
from atelier_registry.decisions.anchor_stores import MlflowAnchorStore, S3AnchorStore
from atelier_registry.decisions.chain_anchor import ChainAnchor
from atelier_registry.errors import AnchorUnavailableError
from atelier_registry.storage import hash_chain
from atelier_registry.storage.hash_chain import BrokenChainError
from atelier_registry.storage.ledger import Ledger
from botocore.exceptions import ClientError
from moto import mock_aws
from sqlalchemy import Engine

from ..fake_registry import FakeRegistry
from .test_chain_anchor import cut_tail, decide, rewrite_all, rewrite_newest, unlocked

BUCKET = "atelier-anchor"
ENTRY_5 = "chain/000000000005"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket with object lock, as Terraform makes it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        client = boto3.client("s3")
        place = {"LocationConstraint": "eu-central-1"}
        client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True, CreateBucketConfiguration=place)
        lock = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 7}}}
        client.put_object_lock_configuration(Bucket=BUCKET, ObjectLockConfiguration=lock)
        yield client


def anchor_on(fake: FakeRegistry, ledger: Ledger) -> ChainAnchor:
    """As a process has it that just started."""
    return ChainAnchor([MlflowAnchorStore(fake), S3AnchorStore(BUCKET)], ledger)


def test_each_new_head_becomes_a_locked_object(s3: Any, fake: FakeRegistry, ledger: Ledger) -> None:
    anchor = anchor_on(fake, ledger)
    for count in (3, 2):
        decide(ledger, count)
        anchor.advance()
    listed = s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    assert [item["Key"] for item in listed] == ["chain/000000000003", ENTRY_5]
    content = json.load(s3.get_object(Bucket=BUCKET, Key=ENTRY_5)["Body"])
    assert content == {"entry": 5, "hash": ledger.chain.head()[1]}
    stored = s3.head_object(Bucket=BUCKET, Key=ENTRY_5)
    assert stored["ObjectLockMode"] == "COMPLIANCE"
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.delete_object(Bucket=BUCKET, Key=ENTRY_5, VersionId=stored["VersionId"])


@pytest.mark.parametrize("forgery", [rewrite_newest, cut_tail, rewrite_all])
def test_a_forger_who_also_moves_the_tag_in_mlflow_is_found(
    s3: Any, ledger: Ledger, engine: Engine, fake: FakeRegistry, forgery: Callable[..., None]
) -> None:
    decide(ledger, 5)
    anchor_on(fake, ledger).advance()
    unlocked(engine, forgery)
    number, digest = ledger.chain.head()
    fake.set_chain_head(f"{number}:{digest}")  # on AWS one database user may write both
    hash_chain.verify(ledger.chain.rows(), anchors={"MLflow": MlflowAnchorStore(fake).read()})
    with pytest.raises(BrokenChainError, match="anchored in s3://atelier-anchor"):
        hash_chain.verify(ledger.chain.rows(), anchors={"s3://atelier-anchor": S3AnchorStore(BUCKET).read()})
    decide(ledger, 2)
    with pytest.raises(BrokenChainError, match="anchored in s3://atelier-anchor"):
        anchor_on(fake, ledger).advance()
    assert len(s3.list_objects_v2(Bucket=BUCKET)["Contents"]) == 1


class AwsListing:
    """moto, from a KeyMarker alone, skips one version of that key; AWS skips all of them."""

    def __init__(self, client: Any) -> None:
        self._client, self.get_object, self.put_object = client, client.get_object, client.put_object

    def list_object_versions(self, **arguments: Any) -> Any:
        assert "VersionIdMarker" not in arguments
        marker = arguments.pop("KeyMarker", "")
        page = self._client.list_object_versions(**arguments)
        for kind in {"Versions", "DeleteMarkers"} & page.keys():
            page[kind] = [item for item in page[kind] if item["Key"] > marker]
        return page


def test_objects_that_hide_an_anchor_are_named_for_as_long_as_the_process_runs(
    s3: Any, fake: FakeRegistry, ledger: Ledger
) -> None:
    decide(ledger, 5)
    anchor_on(fake, ledger).advance()
    forged = json.dumps({"entry": 5, "hash": "f" * 64})
    for tamper, message in (
        (lambda: s3.put_object(Bucket=BUCKET, Key=ENTRY_5, Body=forged), f"{ENTRY_5} was overwritten"),
        (lambda: s3.delete_object(Bucket=BUCKET, Key=ENTRY_5), f"{ENTRY_5} was deleted"),
    ):
        tamper()
        store = S3AnchorStore(BUCKET, AwsListing(s3))
        for _ in range(2):
            with pytest.raises(BrokenChainError, match=message):
                store.read()


@pytest.mark.parametrize(
    ("key", "body", "message"),
    [
        ("chain/newest", "{}", "chain/newest was not written by this service"),
        ("chain/000000000009", "no JSON", "must hold the entry and hash of its name"),
        ("chain/000000000009", json.dumps({"entry": 8, "hash": "f" * 64}), "must hold the entry and hash of its name"),
    ],
)
def test_objects_of_somebody_else_are_named(
    s3: Any, fake: FakeRegistry, ledger: Ledger, key: str, body: str, message: str
) -> None:
    decide(ledger, 5)
    anchor_on(fake, ledger).advance()
    s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    with pytest.raises(BrokenChainError, match=message):
        anchor_on(fake, ledger).advance()


def test_two_processes_may_store_the_same_entry(s3: Any) -> None:
    one, other = S3AnchorStore(BUCKET), S3AnchorStore(BUCKET)
    for store in (one, other):
        store.write((7, "a" * 64))
    assert one.read() == other.read() == (7, "a" * 64)
    with pytest.raises(BrokenChainError, match="chain/000000000007 holds the hash a"):
        other.write((7, "b" * 64))


def test_more_objects_than_a_page_are_listed(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    store = S3AnchorStore(BUCKET)
    for entry in range(1, 12):
        store.write((entry, f"{entry:064x}"))
    assert S3AnchorStore(BUCKET).read() == store.read() == (11, f"{11:064x}")


def test_a_bucket_that_does_not_exist_is_an_outage(s3: Any, fake: FakeRegistry, ledger: Ledger) -> None:
    decide(ledger)
    store = S3AnchorStore("atelier-missing")
    for request in (store.read, lambda: store.write((1, "a" * 64))):
        with pytest.raises(AnchorUnavailableError, match="s3://atelier-missing is unavailable"):
            request()


def test_verify_compares_with_the_bucket(
    s3: Any, fake: FakeRegistry, ledger: Ledger, engine: Engine, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    decide(ledger, 5)
    command = ["verify", "--database", database_url, "--anchor-bucket", BUCKET]
    assert main.run(command) == 8  # nothing is anchored yet
    assert "no entry is anchored in s3://atelier-anchor" in capsys.readouterr().err
    anchor_on(fake, ledger).advance()
    assert main.run(command) == 0
    assert "entry 5 matches its anchor in s3://atelier-anchor" in capsys.readouterr().out
    unlocked(engine, cut_tail)
    assert main.run(command) == 8
    assert "entry 5 was anchored in s3://atelier-anchor, but the chain ends at entry 4" in capsys.readouterr().err
    assert main.run([*command, "--no-anchor"]) == 0
