"""Error responses as nginx locations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import atelier_tracking
import pytest
from atelier_tracking.gate.problem_responses import REFUSALS, Problem, error_locations, return_directive

VALUES = {"body": "10", "bare": "64", "read": "1024", "origin": "Open it's own URL."}


def test_every_refusal_reason_has_a_response():
    gate = (Path(atelier_tracking.__file__).parent / "gate/auth.js").read_text()
    matches = set(re.findall(r"return '(\w+)'|\? '(\w+)'|: '(\w+)' ?\?", gate))
    assert {word for words in matches for word in words if word} - {"guesses"} <= set(REFUSALS)
    assert {"path", "length", "body", "encoding", "no_id", "frozen"} <= {word for words in matches for word in words}


def test_responses_are_problem_documents():
    directives = re.findall(r"return (\d+) '(.*)\\n';", error_locations(VALUES))
    assert len(directives) > len(REFUSALS) + 10
    for status, text in directives:
        body = json.loads(text.replace("\\'", "'"))
        assert body["status"] == int(status) and body["detail"] == body["message"] and body["instance"] == "$request_id"
    assert "it\\'s own URL" in error_locations(VALUES)


@pytest.mark.parametrize("detail", ["costs $5", "a \\ b"])
def test_characters_that_nginx_interprets_are_refused(detail):
    with pytest.raises(ValueError, match="neither"):
        return_directive(Problem(400, detail), "x", {})
