"""Edits of a style lie over each version's own one, and are taken back with null."""

from __future__ import annotations

import json
from typing import Any

import pytest
from atelier_contracts.generate import GenerateRequest
from atelier_contracts.styles import Recommended, RecordedEdits, Style, StyleEdits, field_names, merge_patch
from pydantic import ValidationError

# the examples of RFC 7396, appendix A
RFC_7396 = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "patch", "expected"), RFC_7396)
def test_a_merge_patch_is_that_of_rfc_7396(target: Any, patch: Any, expected: Any) -> None:
    before = json.dumps(target)
    assert merge_patch(target, patch) == expected
    assert json.dumps(target) == before, "the target stays as it is"


def test_edits_lie_over_the_version_field_by_field() -> None:
    own = Style(title="Ink", trigger_words=("sumi",), recommended=Recommended(steps=30, scheduler="ddim"))
    edits = StyleEdits(title="Brush", trigger_words=[], recommended=Recommended(steps=12, scale=0.5))
    style = edits.over(own)
    assert (style.title, style.trigger_words) == ("Brush", ())
    assert style.recommended == Recommended(steps=12, scale=0.5, scheduler="ddim")
    assert StyleEdits().over(own) == own
    assert field_names(own) == {"title", "trigger_words", "recommended.steps", "recommended.scheduler"}
    assert field_names(edits) == {"title", "trigger_words", "recommended.steps", "recommended.scale"}


def test_null_takes_an_edit_back_and_what_is_left_out_stays() -> None:
    edits = StyleEdits(title="Brush", licence="MIT", recommended=Recommended(steps=12, scale=0.5))
    patch = StyleEdits.model_validate_json('{"title": null, "recommended": {"steps": null, "guidance_scale": 3}}')
    assert edits.patched(patch).values() == {"licence": "MIT", "recommended": {"scale": 0.5, "guidance_scale": 3.0}}
    every = StyleEdits.model_validate_json('{"title": null, "licence": null, "recommended": null}')
    assert edits.patched(every) == StyleEdits()


def test_the_tag_holds_the_edits_and_their_decision() -> None:
    recorded = RecordedEdits(decision=7, edits=StyleEdits(title="墨", recommended=Recommended(steps=12)))
    assert recorded.tag() == '{"decision":7,"edits":{"recommended":{"steps":12},"title":"墨"}}'
    assert RecordedEdits.model_validate_json(recorded.tag()) == recorded


@pytest.mark.parametrize(
    "value",
    [
        {"steps": 0}, {"steps": 151}, {"steps": "12"}, {"scale": 4.1}, {"scale": float("nan")}, {"guidance_scale": -1},
        {"guidance_scale": float("inf")}, {"scheduler": "lcm"},
    ],
)  # fmt: skip
def test_a_recommended_value_is_one_that_a_request_may_name(value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Recommended(**value)
    with pytest.raises(ValidationError):
        GenerateRequest(prompt="a cat", **value)
