"""The tests of this folder start containers."""

import pytest

from ..containers import need_engine


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    need_engine()
