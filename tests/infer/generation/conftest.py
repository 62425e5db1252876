"""A receiver of webhooks."""

import pytest

from ..webhook_receiver import Receiver


@pytest.fixture
def receiver():
    with Receiver() as made:
        yield made
