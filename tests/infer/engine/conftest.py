"""An engine that runs paced tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from atelier_infer.engine.engine import Engine

from .paced import take_step


@pytest.fixture
def make_engine() -> Iterator[Callable[..., Engine]]:
    engines = []

    def make(queue_limit: int = 2, drain_timeout_s: float = 5, **changes: Any) -> Engine:
        values: dict[str, Any] = {"take_step": take_step, "rows_limit": 8, "rank_limit": 64}
        engines.append(Engine(queue_limit=queue_limit, drain_timeout_s=drain_timeout_s, **(values | changes)))
        engines[-1].start()
        return engines[-1]

    yield make
    for engine in engines:
        engine.stop()
