"""Sizes of tasks against measured memory; tokens are written from an environment variable to a file."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from atelier_contracts.tokens import Role, parse_tokens

from .conftest import INFRA

SIZES = json.loads((INFRA / "sizes.json").read_text())
FARGATE = {256: (512, 1024, 2048), 512: range(1024, 4097, 1024), 1024: range(2048, 8193, 1024), 2048: range(4096, 16385, 1024)}


@pytest.mark.parametrize("service", SIZES)
def test_a_task_has_20_percent_more_memory_than_measured(service: str) -> None:
    size = SIZES[service]
    assert size["memory_mib"] >= 1.2 * size["measured_mib"]
    assert size["memory_mib"] in FARGATE[size["cpu"]]
    assert len(size["measured"].split()) > 5


def test_a_task_has_the_smallest_sufficient_size() -> None:
    for size in SIZES.values():
        smaller = [memory for memory in FARGATE[size["cpu"]] if memory < size["memory_mib"]]
        assert not smaller or max(smaller) < 1.2 * size["measured_mib"]


def test_the_start_command_writes_tokens_to_a_private_file(tmp_path: Path) -> None:
    text = (INFRA / "services.tf").read_text()
    line = re.search(r'start_with_tokens = "(.*)"\n', text)[1]
    line = line.replace("\\\\", "\\").replace('\\"', '"').replace("${local.tokens_file}", str(tmp_path / "tokens"))
    assert line.endswith("exec python -m")
    first, second = "a" * 64, "b" * 64
    tokens = rf"ana admin {first}\nrob reader {second}"
    script = line.removesuffix("exec python -m") + "env"
    process = subprocess.run(
        ["/bin/sh", "-c", script], env={**os.environ, "ATELIER_TOKENS": tokens}, capture_output=True, text=True, check=True
    )
    assert "ATELIER_TOKENS" not in process.stdout
    assert (tmp_path / "tokens").stat().st_mode & 0o777 == 0o600
    assert [(each.id, each.role) for each in parse_tokens((tmp_path / "tokens").read_text())] == [
        ("ana", Role.admin),
        ("rob", Role.reader),
    ]
