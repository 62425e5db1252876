"""The workflow in docs/: its promotion runs as a runner's shell would run it, and the trainer knows its flags."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from atelier_registry.config.policy import Policy
from atelier_registry.storage.ledger import Ledger
from atelier_registry.storage.locks import AliasLocks
from sqlalchemy import Engine

from ..events.test_event_stream import served
from ..fake_infer_client import FakeInferClient
from ..fake_registry import FakeRegistry

ROOT = Path(__file__).parents[3]
JOB = yaml.safe_load((ROOT / "docs/how-to/github-actions.yml").read_text())["jobs"]["train"]
STEPS = {step.get("name"): step.get("run", "") for step in JOB["steps"]}


@pytest.fixture
def run(
    fake: FakeRegistry, engine: Engine, locks: AliasLocks, token_file: Path, infer_client: FakeInferClient, tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """Runs the step "Promote" for a version; gives its status, and what the job's page would show."""

    def running(policy: dict[str, Any], model: str, number: int) -> tuple[int, str]:
        (tmp_path / "result.json").write_text(f'{{"version": {number}}}')
        summary = tmp_path / "summary.md"
        summary.unlink(missing_ok=True)
        with served(fake, engine, locks, token_file, infer_client, Policy.model_validate(policy)) as api:
            told = {
                "MODEL": model,
                "ATELIER_URL": str(api.client.base_url).rstrip("/"),
                "ATELIER_TOKEN": "pia-secret",
                "GITHUB_RUN_ID": f"17{number}",
                "GITHUB_REPOSITORY": "us/pencil",
                "GITHUB_SHA": "1c2f7a9",
                "GITHUB_STEP_SUMMARY": str(summary),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            }
            ended = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS["Promote"]],
                cwd=tmp_path, env=os.environ | told, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
        return ended.returncode, summary.read_text()

    return running


def test_a_good_version_is_promoted(
    run: Callable[..., tuple[int, str]], fake: FakeRegistry, ledger: Ledger, adapters: str
) -> None:
    status, summary = run({}, adapters, 2)
    assert status == 0
    assert summary.startswith(f"Version 2 of {adapters} is champion.\n```\n")
    assert fake.model(adapters).aliases == {"champion": 2}
    assert ledger.page(adapters, limit=1)[0].reason == "run 172 of us/pencil at 1c2f7a9"


def test_a_refusal_fails_the_job_and_says_why(run: Callable[..., tuple[int, str]], fake: FakeRegistry, adapters: str) -> None:
    status, summary = run({"default": {"champion": {"metrics": [{"name": "fidelity"}]}}}, adapters, 2)
    assert status == 1
    assert summary.startswith(f"The policy refuses version 2 of {adapters}.")
    assert "fidelity" in summary
    assert fake.model(adapters).aliases == {}


def test_a_proposal_does_not_fail_the_job(run: Callable[..., tuple[int, str]], fake: FakeRegistry, adapters: str) -> None:
    status, summary = run({"default": {"champion": {"approval": True}}}, adapters, 2)
    assert status == 0
    assert "awaits approval" in summary
    assert fake.model(adapters).aliases == {}


def test_an_unexpected_error_fails_the_job(run: Callable[..., tuple[int, str]], fake: FakeRegistry, adapters: str) -> None:
    status, summary = run({}, adapters, 99)
    assert status == 1
    assert "was not promoted" in summary
    assert "99" in summary


def test_the_trainer_knows_the_flags() -> None:
    used = set(re.findall(r"--(\w+)=", STEPS["Train and register"]))
    told = subprocess.run(
        [sys.executable, "-m", "atelier_trainer", "train", "--help"], capture_output=True, text=True, timeout=300
    )
    assert len(used) > 8
    assert used <= set(re.findall(r"--(\w+)", told.stdout))
