"""Error responses as nginx locations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import atelier_tracking
import pytest
from atelier_tracking.gate.problem_responses import (
    ERRORS,
    NOT_FOUND,
    REFUSALS,
    TYPES,
    Problem,
    ProblemType,
    error_locations,
    return_directive,
)

VALUES = {"body": "10", "bare": "64", "read": "1024", "origin": "Open it's own URL."}


def test_every_refusal_reason_has_a_response() -> None:
    gate = (Path(atelier_tracking.__file__).parent / "gate/auth.js").read_text()
    matches = set(re.findall(r"return '(\w+)'|\? '(\w+)'|: '(\w+)' ?\?", gate))
    assert {word for words in matches for word in words if word} - {"guesses"} <= set(REFUSALS)
    assert {"path", "length", "body", "encoding", "no_id", "frozen"} <= {word for words in matches for word in words}


def test_responses_are_problem_documents() -> None:
    directives = re.findall(r"return (\d+) '(.*)\\n';", error_locations(VALUES))
    assert len(directives) > len(REFUSALS) + 10
    known = {each.uri: (each.status, each.title) for each in TYPES}
    for status, text in directives:
        body = json.loads(text.replace("\\'", "'"))
        assert known[body["type"]] == (int(status), body["title"])
        assert body["status"] == int(status) and body["detail"] == body["message"] and body["instance"] == "$request_id"
    assert "it\\'s own URL" in error_locations(VALUES)


def test_a_name_stands_for_one_type_and_each_refusal_has_its_own() -> None:
    assert len({each.name for each in TYPES}) == len(TYPES)
    assert len({problem.type for problem in REFUSALS.values()}) == len(REFUSALS)
    assert len({problem.type for problem in (*ERRORS, NOT_FOUND)}) == len(ERRORS) + 1
    assert {each.uri for each in TYPES} >= {"/problems/role-too-low", "/problems/login-required"}


@pytest.mark.parametrize("detail", ["costs $5", "a \\ b"])
def test_characters_that_nginx_interprets_are_refused(detail: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        return_directive(Problem(ProblemType("odd", 400, "Never."), detail), {})
