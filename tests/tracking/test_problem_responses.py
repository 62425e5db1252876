"""Refusals as locations of nginx."""

from __future__ import annotations

import json
import re
from pathlib import Path

import atelier_tracking
import pytest
from atelier_tracking.gate.problem_responses import REFUSALS, Problem, locations, returned

VALUES = {"body": "10", "bare": "64", "read": "1024", "origin": "Open it's own address."}


def test_every_reason_of_the_gate_has_an_answer():
    gate = (Path(atelier_tracking.__file__).parent / "gate/auth.js").read_text()
    given = set(re.findall(r"return '(\w+)'|\? '(\w+)'|: '(\w+)' ?\?", gate))
    assert {word for words in given for word in words if word} - {"guesses"} <= set(REFUSALS)
    assert {"path", "length", "body", "encoding", "nobody", "frozen"} <= {word for words in given for word in words}


def test_each_answer_is_json_that_says_what_to_do():
    found = re.findall(r"return (\d+) '(.*)\\n';", locations(VALUES))
    assert len(found) > len(REFUSALS) + 10
    for status, text in found:
        body = json.loads(text.replace("\\'", "'"))
        assert body["status"] == int(status) and body["detail"] == body["message"] and body["instance"] == "$request_id"
    assert "it\\'s own address" in locations(VALUES)


@pytest.mark.parametrize("detail", ["costs $5", "a \\ b"])
def test_what_nginx_would_read_as_its_own_is_refused(detail):
    with pytest.raises(ValueError, match="neither"):
        returned(Problem(400, detail), "x", {})
