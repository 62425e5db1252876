"""The OpenAPI document is true: schemathesis makes requests from it, and every answer must be as it says, and none a 5xx."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from atelier_contracts.tokens import TokenFile
from atelier_registry.bootstrap import Intervals, build_app
from atelier_registry.config.policy import Policy
from atelier_registry.events.event_stream import EventStream
from atelier_registry.events.webhooks.dispatcher import WebhookDispatcher
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import AliasLocks

from ...servers import app_running
from ..adapter_files import FILES
from ..fake_infer_client import FakeInferClient, png
from ..real_registry import RealWorld


@pytest.fixture
def url(
    real_world: RealWorld,
    ledger: Ledger,
    locks: AliasLocks,
    webhooks: WebhookDispatcher,
    token_file: Path,
    infer_client: FakeInferClient,
) -> Iterator[str]:
    """The service on a real MLflow server, with something in it."""
    real_world.add_model(name := "examined")
    for _ in range(2):
        real_world.add_version(
            name, tags={"atelier.kind": "adapter"}, files=FILES, metrics={"loss": 0.5, "diverged": float("nan")}
        )
    real_world.add_image(name, 1, "validation", 1, png(9))
    event_stream = EventStream(ledger.outbox)
    app = build_app(
        registry=real_world.registry,
        ledger=ledger,
        locks=locks,
        event_stream=event_stream,
        webhooks=webhooks,
        tokens=TokenFile(token_file),
        policy=Policy.model_validate({"default": {"champion": {"output_finite": True}, "shown": {"approval": True}}}),
        infer_client=infer_client,
        intervals=Intervals(alias_poll_s=3600, cache_ttl_s=1, integrity_check_s=3600),
    )
    with app_running(app) as address:
        yield address
        event_stream.close()


@pytest.mark.timeout(900)
def test_every_response_matches_the_openapi_document(url: str, tmp_path: Path) -> None:
    """Streams that do not end are left out: `GET /events` has tests of its own."""
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{url}/openapi.json",
            "--header",
            "Authorization: Bearer ada-secret",
            "--max-examples",
            "4",
            "--exclude-path",
            "/events",
            "--seed",
            "7",
            "--no-color",
            "--request-timeout",
            "60",
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
            "--phases",
            "examples,coverage,fuzzing",
            "--suppress-health-check",
            "all",
            "--generation-database",
            "none",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=880,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    counted = re.search(r"(\d+) generated, (\d+) passed", ended.stdout)
    assert counted, ended.stdout[-3000:]
    assert counted[1] == counted[2]
    assert int(counted[1]) > 300
