"""The command line of the maintenance jobs."""

from __future__ import annotations

import pytest
from atelier_tracking.maintenance.jobs import parse


def test_gc_needs_yes_and_keeps_recent_items_by_default() -> None:
    options = parse(["gc"])
    assert (options.job, options.yes, options.older_than_days) == ("gc", False, 30.0)
    assert parse(["gc", "--yes", "--older-than-days", "0"]).yes


@pytest.mark.parametrize("words", [["mend"], ["gc", "--older-than-days", "soon"], ["migrate", "now"]])
def test_invalid_arguments_print_the_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parse(words)
    assert exit_info.value.code == 2 and "python -m atelier_tracking" in capsys.readouterr().err
