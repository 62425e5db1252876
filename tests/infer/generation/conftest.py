"""A receiver of webhooks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..webhook_receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made
