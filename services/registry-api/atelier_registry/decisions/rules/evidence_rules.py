"""Rules about what was measured on a version: the trainer's evidence, and the run's metrics.

Losses are compared only where the evidence says that both were measured on the same data.
"""

from __future__ import annotations

from math import isfinite

from atelier_contracts.promotion import Verdict

from atelier_registry.config.policy import Better, Bound
from atelier_registry.decisions.rules.candidate import Candidate, Observations, Rule, format_bounds, json_number


def output_finite(candidate: Candidate, champion: Candidate | None, observations: Observations) -> Verdict:
    if candidate.evidence is None:
        return _no_evidence("output_finite", candidate)
    passed = candidate.evidence.output_finite
    return Verdict(
        rule="output_finite",
        passed=passed,
        reason="its output was finite" if passed else "its output contained NaN or infinity when it was measured",
        numbers={"output_finite": str(passed).lower()},
    )


def onnx_error(max_error: float) -> Rule:
    """ONNX and torch agree."""

    def rule(candidate: Candidate, champion: Candidate | None, observations: Observations) -> Verdict:
        if candidate.evidence is None:
            return _no_evidence("onnx_error", candidate)
        error = candidate.evidence.onnx_max_error
        return Verdict(
            rule="onnx_error",
            passed=error <= max_error,  # False for NaN
            reason=f"ONNX differs from torch by {error:.3g}; at most {max_error:g} is allowed",
            numbers={"onnx_max_error": json_number(error), "at_most": max_error},
        )

    return rule


def metric_bound(bound: Bound) -> Rule:
    """A metric was measured, and is within its bounds."""

    def rule(candidate: Candidate, champion: Candidate | None, observations: Observations) -> Verdict:
        value = candidate.value(bound.name)
        low, high = bound.at_least, bound.at_most
        numbers = {"value": json_number(value), "at_least": low, "at_most": high}
        name = f"metric:{bound.name}"
        if value is None:
            return Verdict(rule=name, passed=False, reason=f"{bound.name} was not measured", numbers=numbers)
        passed = isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
        required = format_bounds(low, high) or "any finite value"
        return Verdict(rule=name, passed=passed, reason=f"{bound.name} is {value:.6g}; required: {required}", numbers=numbers)

    return rule


def better_than_champion(required: Better) -> Rule:
    """It is better than the champion by enough, measured on the same data."""

    def rule(candidate: Candidate, champion: Candidate | None, observations: Observations) -> Verdict:
        def verdict(passed: bool, reason: str, **numbers: float | str | None) -> Verdict:
            return Verdict(rule="better_than_champion", passed=passed, reason=reason, numbers=numbers)

        if champion is None:
            return verdict(True, "there is no other champion to compare with")
        ours, theirs = candidate.evidence, champion.evidence
        if ours is None:
            return verdict(False, f"version {candidate.version.number} has no usable evidence, so losses cannot be compared")
        if theirs is None:
            reason = f"version {champion.version.number} has no usable evidence, so losses cannot be compared"
            return verdict(required.where_comparable, reason)
        for version, evidence in ((candidate.version, ours), (champion.version, theirs)):
            if evidence.validation_digest is None:
                reason = f"no loss was measured on version {version.number}, which was imported, so losses cannot be compared"
                return verdict(required.where_comparable, reason)
        if ours.validation_digest != theirs.validation_digest:
            return verdict(
                required.where_comparable,
                f"it and version {champion.version.number} were measured on different data, so losses cannot be compared",
                candidate_digest=ours.validation_digest,
                champion_digest=theirs.validation_digest,
            )
        value, champion_value = candidate.value(required.metric), champion.value(required.metric)
        if value is None or champion_value is None or not (isfinite(value) and isfinite(champion_value)):
            return verdict(
                False,
                f"{required.metric} is not a finite number for both versions",
                candidate=json_number(value),
                champion=json_number(champion_value),
            )
        gain = value - champion_value if required.higher_is_better else champion_value - value
        return verdict(
            gain >= required.by_at_least,
            f"{required.metric} is {value:.6g} against {champion_value:.6g}, better by {gain:.3g}; "
            f"required: at least {required.by_at_least:g}",
            candidate=value,
            champion=champion_value,
            gain=gain,
            by_at_least=required.by_at_least,
        )

    return rule


def _no_evidence(rule: str, candidate: Candidate) -> Verdict:
    problem = candidate.identity.evidence_problem if candidate.identity else "it is no adapter, so it has no evidence.json"
    return Verdict(rule=rule, passed=False, reason=problem)
