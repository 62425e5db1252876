"""What an operator types after `python -m atelier_tracking`."""

import pytest
from atelier_tracking.maintenance.jobs import parse


def test_gc_removes_nothing_unless_told_and_nothing_young():
    told = parse(["gc"])
    assert (told.job, told.yes, told.older_than_days) == ("gc", False, 30.0)
    assert parse(["gc", "--yes", "--older-than-days", "0"]).yes


@pytest.mark.parametrize("words", [["mend"], ["gc", "--older-than-days", "soon"], ["migrate", "now"]])
def test_what_is_no_job_is_answered_with_those_that_are(words, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2 and "python -m atelier_tracking" in capsys.readouterr().err
