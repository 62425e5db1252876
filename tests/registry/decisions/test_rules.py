"""The rules as pure functions: what each one says, and what holds whatever the numbers are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from atelier_contracts.manifests import Evidence
from atelier_contracts.promotion import Verdict
from atelier_registry.config.policy import AliasPolicy, Better, Bound, Drift, DriftImage
from atelier_registry.decisions.image_distance import ImageComparison
from atelier_registry.decisions.rules import evidence_rules, infer_rules, version_rules
from atelier_registry.decisions.rules.candidate import Candidate, Observations
from atelier_registry.decisions.rules.rule_set import promotion_rules
from atelier_registry.models.artifact_digests import AdapterIdentity
from atelier_registry.models.model_registry import Version
from atelier_registry.storage import hash_chain
from hypothesis import given
from hypothesis import strategies as st

from ..adapter_files import EVIDENCE

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ADAPTER = {"atelier.kind": "adapter"}


def candidate_version(
    number: int = 2,
    *,
    status: str = "READY",
    tags: dict[str, str] = ADAPTER,
    age_s: float = 60.0,
    evidence: Evidence | None = EVIDENCE,
    problem: str = "it has no evidence.json",
    metrics: dict[str, float] | None = None,
    **changes: Any,
) -> Candidate:
    version = Version("pencil", number, NOW - timedelta(seconds=age_s), status, tags=tags)
    found = evidence.model_copy(update=changes) if evidence else None
    identity = AdapterIdentity("a" * 64, found, evidence_problem="" if found else problem)
    return Candidate(version, metrics or {}, identity)


def evaluate(
    rule: Callable[..., Any], candidate: Candidate | None = None, champion: Candidate | None = None, **seen: Any
) -> Verdict:
    verdict = rule(candidate or candidate_version(), champion, Observations(NOW, **seen))
    json.dumps(hash_chain.canonical(verdict.model_dump()))  # what it saw can be kept
    return verdict


def test_standing_rules_hold_without_a_policy() -> None:
    assert evaluate(version_rules.ready).passed
    assert not evaluate(version_rules.ready, candidate_version(status="PENDING_REGISTRATION")).passed
    assert evaluate(version_rules.ready).binding
    assert not evaluate(version_rules.is_adapter, candidate_version(tags={})).passed
    assert evaluate(version_rules.is_adapter, candidate_version(tags={})).binding
    retired = evaluate(version_rules.not_retired, candidate_version(tags=ADAPTER | {"atelier.retired": "7"}))
    assert not retired.passed
    assert not retired.binding
    assert "decision 7" in retired.reason


def test_evidence_rules() -> None:
    assert evaluate(evidence_rules.output_finite).passed
    assert not evaluate(evidence_rules.output_finite, candidate_version(output_finite=False)).passed
    assert evaluate(evidence_rules.output_finite, candidate_version(evidence=None)).reason == "it has no evidence.json"
    broken = candidate_version(evidence=None, problem="evidence.json is not a valid Evidence: x")
    assert evaluate(evidence_rules.output_finite, broken).reason == "evidence.json is not a valid Evidence: x"
    assert evaluate(evidence_rules.onnx_error(1e-3)).passed
    assert not evaluate(evidence_rules.onnx_error(1e-9)).passed
    assert not evaluate(evidence_rules.onnx_error(1.0), candidate_version(onnx_max_error=math.nan)).passed
    assert not evaluate(evidence_rules.onnx_error(1.0), candidate_version(evidence=None)).passed


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
def test_metric_bounds(bound: Bound, metrics: dict[str, float], passed: bool) -> None:
    assert evaluate(evidence_rules.metric_bound(bound), candidate_version(metrics=metrics)).passed == passed


@pytest.mark.parametrize(("where_comparable", "passed"), [(True, True), (False, False)])
@pytest.mark.parametrize("imported", [1, 2])
def test_an_imported_version_without_a_loss_is_not_comparable(where_comparable: bool, passed: bool, imported: int) -> None:
    nothing: dict[str, Any] = {
        "validation_loss": None,
        "base_validation_loss": None,
        "validation_digest": None,
        "validation_images": 0,
    }
    candidate, champion = (candidate_version(number, **(nothing if number == imported else {})) for number in (2, 1))
    rule = evidence_rules.better_than_champion(Better(where_comparable=where_comparable))
    verdict = evaluate(rule, candidate, champion)
    assert verdict.passed == passed
    assert f"no loss was measured on version {imported}, which was imported" in verdict.reason
    bound = evaluate(evidence_rules.metric_bound(Bound(name="validation_loss", at_most=1.0)), candidate)
    assert bound.passed == (imported == 1)
    assert ("was not measured" in bound.reason) == (imported == 2)


def test_better_than_the_champion() -> None:
    rule = evidence_rules.better_than_champion(Better(by_at_least=0.01))
    assert "no other champion" in evaluate(rule).reason
    assert evaluate(rule, candidate_version(validation_loss=0.11), candidate_version(1)).passed
    close = evaluate(rule, candidate_version(validation_loss=0.125), candidate_version(1))
    assert not close.passed
    assert close.numbers["gain"] == pytest.approx(0.005)
    other_data = evaluate(rule, candidate_version(validation_loss=0.0), candidate_version(1, validation_digest="f" * 64))
    assert not other_data.passed
    assert "different data" in other_data.reason
    assert "version 1 has no usable evidence" in evaluate(rule, candidate_version(), candidate_version(1, evidence=None)).reason
    upward = evidence_rules.better_than_champion(Better(metric="score", higher_is_better=True))
    assert evaluate(upward, candidate_version(metrics={"score": 3.0}), candidate_version(1, metrics={"score": 2.0})).passed
    assert not evaluate(upward, candidate_version(metrics={"score": 3.0}), candidate_version(1)).passed


def test_age_and_tags() -> None:
    assert evaluate(version_rules.age(30, 90)).passed
    assert not evaluate(version_rules.age(61, None)).passed
    assert not evaluate(version_rules.age(None, 59)).passed
    assert evaluate(version_rules.tag("reviewed", None), candidate_version(tags={"reviewed": "x"})).passed
    assert evaluate(version_rules.tag("reviewed", "yes"), candidate_version(tags={"reviewed": "yes"})).passed
    assert not evaluate(version_rules.tag("reviewed", "yes"), candidate_version(tags={"reviewed": "no"})).passed
    assert not evaluate(version_rules.tag("reviewed", None), candidate_version(tags={})).passed


def test_infer_rules() -> None:
    assert evaluate(infer_rules.loads, load_problem="").passed
    assert evaluate(infer_rules.loads, load_problem="NaN").reason == "NaN"
    assert not evaluate(infer_rules.loads).passed
    rule = infer_rules.drift(Drift(at_most=0.2, images=[DriftImage(prompt="a cat"), DriftImage(prompt="a dog", at_most=0.5)]))
    assert evaluate(rule).passed
    assert evaluate(rule, None, candidate_version(1), images=ImageComparison((0.1, 0.4), (), None)).passed
    far = evaluate(rule, None, candidate_version(1), images=ImageComparison((0.3, 0.6), (), None))
    assert not far.passed
    assert "image 1 has the distance 0.300; at most 0.2 is allowed; image 2 has the distance 0.600; at most 0.5" in far.reason
    assert far.numbers == {"at_most": 0.2, "image_1": 0.3, "image_2": 0.6}
    assert evaluate(rule, None, candidate_version(1), image_problem="infer is down").reason == "infer is down"
    assert not evaluate(infer_rules.not_blank, images=ImageComparison((), (2,), None)).passed
    assert not evaluate(infer_rules.not_blank).passed
    matters = infer_rules.prompt_sensitivity(0.1)
    assert evaluate(matters, images=ImageComparison((), (), 0.1)).passed
    assert not evaluate(matters, images=ImageComparison((), (), 0.09)).passed
    assert not evaluate(matters).passed


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(numbers, numbers, st.floats(0, 1e6))
def test_better_never_passes_what_is_not_better(mine: float, other: float, by: float) -> None:
    ours, theirs = candidate_version(validation_loss=mine), candidate_version(1, validation_loss=other)
    verdict = evaluate(evidence_rules.better_than_champion(Better(by_at_least=by)), ours, theirs)
    if verdict.passed:
        assert math.isfinite(mine)
        assert math.isfinite(other)
        assert other - mine >= by
    assert not (
        verdict.passed and by > 0 and evaluate(evidence_rules.better_than_champion(Better(by_at_least=by)), theirs, ours).passed
    )


@given(numbers, st.none() | st.floats(-1e9, 0), st.none() | st.floats(0, 1e9))
def test_a_bound_never_passes_what_is_outside(value: float, low: float | None, high: float | None) -> None:
    verdict = evaluate(
        evidence_rules.metric_bound(Bound(name="m", at_least=low, at_most=high)), candidate_version(metrics={"m": value})
    )
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
def test_every_rule_gives_one_reproducible_verdict(policy: AliasPolicy, alias: str, evidence: bool) -> None:
    candidate = candidate_version(evidence=EVIDENCE if evidence else None)
    verdicts = [evaluate(rule, candidate, candidate_version(1)) for rule in promotion_rules(policy, alias)]
    assert all(verdict.reason for verdict in verdicts)
    assert len({verdict.rule for verdict in verdicts}) == len(verdicts)
    again = [evaluate(rule, candidate, candidate_version(1)) for rule in promotion_rules(policy, alias)]
    assert verdicts == again  # nothing but the arguments matters
