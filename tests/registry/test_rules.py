"""The rules as pure functions: what each one says, and what holds whatever the numbers are."""

import json
import math
from datetime import UTC, datetime, timedelta

import pytest
from atelier_registry.config.policy import AliasPolicy, Better, Bound, Drift, DriftImage
from atelier_registry.decisions import rules
from atelier_registry.decisions.image_distance import ImageFindings
from atelier_registry.decisions.rules import Candidate, Observations
from atelier_registry.models.artifact_digests import AdapterIdentity
from atelier_registry.models.model_registry import Version
from atelier_registry.storage import hash_chain
from hypothesis import given
from hypothesis import strategies as st

from .conftest import EVIDENCE

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ADAPTER = {"atelier.kind": "adapter"}


def subject(
    number=2,
    *,
    status="READY",
    tags=ADAPTER,
    age_s=60.0,
    evidence=EVIDENCE,
    problem="it has no evidence.json",
    metrics=None,
    **changes,
):
    version = Version("pencil", number, NOW - timedelta(seconds=age_s), status, tags=tags)
    found = evidence.model_copy(update=changes) if evidence else None
    identity = AdapterIdentity("a" * 64, found, evidence_problem="" if found else problem)
    return Candidate(version, metrics or {}, identity)


def evaluator(rule, candidate=None, champion=None, **seen):
    verdict = rule(candidate or subject(), champion, Observations(NOW, **seen))
    json.dumps(hash_chain.canonical(verdict.model_dump()))  # what it saw can be kept
    return verdict


def test_standing_rules():
    assert evaluator(rules.ready).passed
    assert not evaluator(rules.ready, subject(status="PENDING_REGISTRATION")).passed
    assert evaluator(rules.ready).binding
    assert not evaluator(rules.drawable, subject(tags={})).passed
    assert evaluator(rules.drawable, subject(tags={})).binding
    retired = evaluator(rules.not_retired, subject(tags=ADAPTER | {"atelier.retired": "7"}))
    assert not retired.passed
    assert not retired.binding
    assert "decision 7" in retired.reason


def test_evidence():
    assert evaluator(rules.output_finite).passed
    assert not evaluator(rules.output_finite, subject(output_finite=False)).passed
    assert evaluator(rules.output_finite, subject(evidence=None)).reason == "it has no evidence.json"
    broken = subject(evidence=None, problem="evidence.json is not a valid Evidence: x")
    assert evaluator(rules.output_finite, broken).reason == "evidence.json is not a valid Evidence: x"
    assert evaluator(rules.parity(1e-3)).passed
    assert not evaluator(rules.parity(1e-9)).passed
    assert not evaluator(rules.parity(1.0), subject(onnx_max_error=math.nan)).passed
    assert not evaluator(rules.parity(1.0), subject(evidence=None)).passed


@pytest.mark.parametrize(
    ("bound", "metrics", "passed"),
    [
        (Bound(name="fid"), {"fid": 3.0}, True),
        (Bound(name="fid"), {}, False),
        (Bound(name="fid"), {"fid": math.nan}, False),
        (Bound(name="fid", at_most=2), {"fid": 3.0}, False),
        (Bound(name="fid", at_least=2, at_most=4), {"fid": 3.0}, True),
        (Bound(name="fid", at_least=4), {"fid": 3.0}, False),
        (Bound(name="validation_loss", at_most=0.14), {"validation_loss": 9.0}, True),  # the evidence has the last word
    ],
)
def test_bounds(bound, metrics, passed):
    assert evaluator(rules.bound(bound), subject(metrics=metrics)).passed == passed


def test_better_than_the_champion():
    rule = rules.better(Better(by_at_least=0.01))
    assert "no other champion" in evaluator(rule).reason
    assert evaluator(rule, subject(validation_loss=0.11), subject(1)).passed
    close = evaluator(rule, subject(validation_loss=0.125), subject(1))
    assert not close.passed
    assert close.numbers["gain"] == pytest.approx(0.005)
    other_data = evaluator(rule, subject(validation_loss=0.0), subject(1, validation_digest="f" * 64))
    assert not other_data.passed
    assert "different data" in other_data.reason
    assert "version 1 has no usable evidence" in evaluator(rule, subject(), subject(1, evidence=None)).reason
    upward = rules.better(Better(metric="score", higher_is_better=True))
    assert evaluator(upward, subject(metrics={"score": 3.0}), subject(1, metrics={"score": 2.0})).passed
    assert not evaluator(upward, subject(metrics={"score": 3.0}), subject(1)).passed


def test_age_and_tags():
    assert evaluator(rules.age(30, 90)).passed
    assert not evaluator(rules.age(61, None)).passed
    assert not evaluator(rules.age(None, 59)).passed
    assert evaluator(rules.tag("reviewed", None), subject(tags={"reviewed": "x"})).passed
    assert evaluator(rules.tag("reviewed", "yes"), subject(tags={"reviewed": "yes"})).passed
    assert not evaluator(rules.tag("reviewed", "yes"), subject(tags={"reviewed": "no"})).passed
    assert not evaluator(rules.tag("reviewed", None), subject(tags={})).passed


def test_loads_and_drift():
    assert evaluator(rules.loads, load_problem="").passed
    assert evaluator(rules.loads, load_problem="NaN").reason == "NaN"
    assert not evaluator(rules.loads).passed
    rule = rules.drift(Drift(at_most=0.2, images=[DriftImage(prompt="a cat"), DriftImage(prompt="a dog", at_most=0.5)]))
    assert evaluator(rule).passed
    assert evaluator(rule, None, subject(1), images=ImageFindings((0.1, 0.4), (), None)).passed
    far = evaluator(rule, None, subject(1), images=ImageFindings((0.3, 0.6), (), None))
    assert not far.passed
    assert "image 1 is 0.300 away, at most 0.2 is allowed; image 2 is 0.600 away, at most 0.5" in far.reason
    assert far.numbers == {"at_most": 0.2, "image_1": 0.3, "image_2": 0.6}
    assert evaluator(rule, None, subject(1), image_problem="infer is down").reason == "infer is down"
    assert not evaluator(rules.not_blank, images=ImageFindings((), (2,), None)).passed
    assert not evaluator(rules.not_blank).passed
    matters = rules.prompt_matters(0.1)
    assert evaluator(matters, images=ImageFindings((), (), 0.1)).passed
    assert not evaluator(matters, images=ImageFindings((), (), 0.09)).passed
    assert not evaluator(matters).passed


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(numbers, numbers, st.floats(0, 1e6))
def test_better_never_passes_what_is_not_better(mine, other, by):
    ours, theirs = subject(validation_loss=mine), subject(1, validation_loss=other)
    verdict = evaluator(rules.better(Better(by_at_least=by)), ours, theirs)
    if verdict.passed:
        assert math.isfinite(mine)
        assert math.isfinite(other)
        assert other - mine >= by
    assert not (verdict.passed and by > 0 and evaluator(rules.better(Better(by_at_least=by)), theirs, ours).passed)


@given(numbers, st.none() | st.floats(-1e9, 0), st.none() | st.floats(0, 1e9))
def test_a_bound_never_passes_what_is_outside(value, low, high):
    verdict = evaluator(rules.bound(Bound(name="m", at_least=low, at_most=high)), subject(metrics={"m": value}))
    inside = math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
    assert verdict.passed == inside


policies = st.builds(
    AliasPolicy,
    output_finite=st.booleans(),
    max_onnx_error=st.none() | st.floats(0, 1),
    min_age_s=st.none() | st.floats(0, 50),
    loads=st.booleans(),
    tags=st.dictionaries(st.sampled_from(["a", "b"]), st.none() | st.sampled_from(["x", "y"])),
    better_than_champion=st.none() | st.builds(Better, by_at_least=st.floats(0, 1)),
)


@given(policies, st.sampled_from(["champion", "candidate"]), st.booleans())
def test_every_rule_answers_for_anything(policy, alias, evidence):
    candidate = subject(evidence=EVIDENCE if evidence else None)
    verdicts = [evaluator(rule, candidate, subject(1)) for rule in rules.rules_of(policy, alias)]
    assert all(verdict.reason for verdict in verdicts)
    assert len({verdict.rule for verdict in verdicts}) == len(verdicts)
    again = [evaluator(rule, candidate, subject(1)) for rule in rules.rules_of(policy, alias)]
    assert verdicts == again  # nothing but the arguments matters
