"""The reference documents every metric with its labels."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from .conftest import Service
from .support import wait_until_ready

REFERENCE = (Path(__file__).parents[2] / "docs/reference/infer/metrics.md").read_text()


def test_the_reference_has_a_row_for_every_metric(canary: Callable[..., Service]) -> None:
    service = canary()
    wait_until_ready(service)
    service.generate()
    names = set(re.findall(r"^# TYPE (atelier_infer_\w+) ", service.client.get("/metrics").text, re.M))
    exposed = {name for name in names if not name.endswith("_created")}
    assert exposed == set(re.findall(r"^\| `(atelier_infer_\w+)`", REFERENCE, re.M))
