"""What must hold before an alias may point at a version: pure functions `(candidate, champion, seen) → verdict`.

Each rule is made from a part of the policy, says what it found in words and numbers, and asks nobody anything. Losses are
compared only where both were measured on the same data, as the digests in the evidence say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from atelier_contracts.manifests import Evidence
from atelier_contracts.names import CHAMPION, KIND_ADAPTER, TAG_KIND, TAG_RETIRED
from atelier_contracts.promotion import Verdict

from atelier_registry.config.policy import AliasPolicy, Better, Bound, Drift
from atelier_registry.decisions.image_distance import ImageFindings
from atelier_registry.errors import InvalidArgumentError
from atelier_registry.models.artifact_digests import AdapterIdentity
from atelier_registry.models.model_registry import READY, Version


@dataclass(frozen=True)
class Candidate:
    """A version as the rules see it."""

    version: Version
    metrics: Mapping[str, float] = field(default_factory=dict)
    identity: AdapterIdentity | None = None
    """None where it is no adapter."""
    decided_digest: str | None = None
    """What an earlier decision said about its files; None without such a decision."""

    @property
    def evidence(self) -> Evidence | None:
        """What was measured on exactly these weights."""
        return self.identity.evidence if self.identity else None

    def value(self, metric: str) -> float | None:
        """A number of the evidence, or else the last value of the run's metric."""
        if self.evidence and metric in ("validation_loss", "base_validation_loss", "onnx_max_error"):
            return float(getattr(self.evidence, metric))
        return self.metrics.get(metric)


@dataclass(frozen=True)
class Observations:
    """What was found out for the rules, beside the versions themselves.

    Attributes:
        now: when.
        load_problem: why infer cannot load the candidate; empty where it can; None where it was not asked.
        images: what the policy's images show; None where they were not drawn.
        image_problem: why they were not, empty where they were.
    """

    now: datetime
    load_problem: str | None = None
    images: ImageFindings | None = None
    image_problem: str = ""


Rule = Callable[[Candidate, Candidate | None, Observations], Verdict]


def check_alias(alias: str) -> None:
    """Refuses the names that MLflow keeps for itself, before anything is written.

    Raises:
        InvalidArgumentError: the alias is `latest`, or reads like a version such as `v7`.
    """
    if alias == "latest" or re.fullmatch(r"v\d+", alias):
        raise InvalidArgumentError(f"`latest` and `v` with a number are reserved by MLflow; received {alias!r}: choose another")


def standing(alias: str) -> list[Rule]:
    """Rules that hold whatever the policy says; force helps against the last one only."""
    return [ready, *([drawable] if alias == CHAMPION else []), same_files, not_retired]


def rules_of(policy: AliasPolicy, alias: str) -> list[Rule]:
    """The rules of a promotion, in the order in which they are told."""
    rules = standing(alias)
    if policy.output_finite:
        rules.append(output_finite)
    if policy.max_onnx_error is not None:
        rules.append(parity(policy.max_onnx_error))
    rules += [bound(each) for each in policy.metrics]
    if policy.better_than_champion:
        rules.append(better(policy.better_than_champion))
    if policy.min_age_s is not None or policy.max_age_s is not None:
        rules.append(age(policy.min_age_s, policy.max_age_s))
    rules += [tag(key, value) for key, value in sorted(policy.tags.items())]
    if policy.loads:
        rules.append(loads)
    if policy.drift:
        rules += [not_blank, drift(policy.drift)]
        if policy.drift.prompts_apart_by is not None:
            rules.append(prompt_matters(policy.drift.prompts_apart_by))
    return rules


def ready(candidate: Candidate, champion: Candidate | None, seen: Observations) -> Verdict:
    """Its files are complete, as MLflow's status says."""
    status = candidate.version.status
    return Verdict(
        rule="ready",
        passed=status == READY,
        reason=f"has the status {status}" + ("" if status == READY else f"; only {READY} versions can be pointed at"),
        numbers={"status": status},
        binding=True,
    )


def drawable(candidate: Candidate, champion: Candidate | None, seen: Observations) -> Verdict:
    """The champion is what images are drawn with, so it must be an adapter."""
    kind = candidate.version.kind
    found = f"has the tag {TAG_KIND}={kind}" if kind else f"has no tag {TAG_KIND}"
    return Verdict(
        rule="adapter",
        passed=kind == KIND_ADAPTER,
        reason=found + ("" if kind == KIND_ADAPTER else f"; {CHAMPION} takes versions with {TAG_KIND}={KIND_ADAPTER}"),
        numbers={"kind": kind},
        binding=True,
    )


def same_files(candidate: Candidate, champion: Candidate | None, seen: Observations) -> Verdict:
    """Its files agree with each other, and with what an earlier decision said of them."""
    identity, decided = candidate.identity, candidate.decided_digest
    if identity is None:
        return Verdict(rule="same_files", passed=True, reason="is no adapter, so it has no digest", binding=True)
    passed = identity.digest is not None and decided in (None, identity.digest)
    if identity.digest is None:
        reason = f"its files make no adapter: {identity.problem}"
    elif not passed:
        reason = (
            f"its files were changed: they had the digest {decided} when an alias was first let point at it, and have "
            f"{identity.digest} now; register them as a new version"
        )
    else:
        reason = "its files have the digest that was decided on before" if decided else "its files agree with each other"
    numbers: dict[str, float | str | None] = {"adapter_digest": identity.digest, "decided_digest": decided}
    return Verdict(rule="same_files", passed=passed, reason=reason, numbers=numbers, binding=True)


def not_retired(candidate: Candidate, champion: Candidate | None, seen: Observations) -> Verdict:
    """Nobody took it out of use."""
    retired = candidate.version.tags.get(TAG_RETIRED)
    return Verdict(
        rule="not_retired",
        passed=retired is None,
        reason=f"was retired by decision {retired}" if retired is not None else "is in use",
        numbers={"retired": retired},
    )


def output_finite(candidate: Candidate, champion: Candidate | None, seen: Observations) -> Verdict:
    """The trainer found no NaN or infinity in its output."""
    if candidate.evidence is None:
        return _missing("output_finite", candidate)
    passed = candidate.evidence.output_finite
    return Verdict(
        rule="output_finite",
        passed=passed,
        reason="its output was finite" if passed else "its output held NaN or infinity when it was measured",
        numbers={"output_finite": str(passed).lower()},
    )


def parity(most: float) -> Rule:
    """ONNX and torch agree."""

    def rule(candidate: Candidate, champion: Candidate | None, seen: Observations) -> Verdict:
        if candidate.evidence is None:
            return _missing("onnx_error", candidate)
        error = candidate.evidence.onnx_max_error
        return Verdict(
            rule="onnx_error",
            passed=error <= most,  # False for NaN
            reason=f"ONNX is {error:.3g} from torch, at most {most:g} is allowed",
            numbers={"onnx_max_error": _number(error), "at_most": most},
        )

    return rule


def bound(limit: Bound) -> Rule:
    """A metric is there, and within its bounds."""

    def rule(candidate: Candidate, champion: Candidate | None, seen: Observations) -> Verdict:
        value = candidate.value(limit.name)
        numbers = {"value": _number(value), "at_least": limit.at_least, "at_most": limit.at_most}
        name = f"metric:{limit.name}"
        if value is None:
            return Verdict(rule=name, passed=False, reason=f"{limit.name} was not measured", numbers=numbers)
        low, high = limit.at_least, limit.at_most
        passed = math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
        wanted = _bounds(low, high) or "any finite value"
        return Verdict(rule=name, passed=passed, reason=f"{limit.name} is {value:.6g}, {wanted} is asked for", numbers=numbers)

    return rule


def better(wanted: Better) -> Rule:
    """It beats the champion by enough, measured on the same data."""

    def rule(candidate: Candidate, champion: Candidate | None, seen: Observations) -> Verdict:
        def verdict(passed: bool, reason: str, **numbers: float | str | None) -> Verdict:
            return Verdict(rule="better_than_champion", passed=passed, reason=reason, numbers=numbers)

        if champion is None:
            return verdict(True, "there is no other champion to beat")
        ours, theirs = candidate.evidence, champion.evidence
        if ours is None:
            return verdict(False, f"version {candidate.version.number} has no usable evidence, so losses cannot be compared")
        if theirs is None:
            told = f"version {champion.version.number} has no usable evidence, so losses cannot be compared"
            return verdict(wanted.where_comparable, told)
        if ours.validation_digest != theirs.validation_digest:
            return verdict(
                wanted.where_comparable,
                f"it and version {champion.version.number} were measured on different data, so losses cannot be compared",
                candidate_digest=ours.validation_digest,
                champion_digest=theirs.validation_digest,
            )
        mine, other = candidate.value(wanted.metric), champion.value(wanted.metric)
        if mine is None or other is None or not (math.isfinite(mine) and math.isfinite(other)):
            return verdict(False, f"{wanted.metric} is not a number for both", candidate=_number(mine), champion=_number(other))
        gain = mine - other if wanted.higher_is_better else other - mine
        return verdict(
            gain >= wanted.by_at_least,
            f"{wanted.metric} is {mine:.6g} against {other:.6g}, better by {gain:.3g}; "
            f"at least {wanted.by_at_least:g} is asked for",
            candidate=mine,
            champion=other,
            gain=gain,
            by_at_least=wanted.by_at_least,
        )

    return rule


def age(least_s: float | None, most_s: float | None) -> Rule:
    """It was registered long enough ago, and not too long."""

    def rule(candidate: Candidate, champion: Candidate | None, seen: Observations) -> Verdict:
        seconds = (seen.now - candidate.version.created_at).total_seconds()
        passed = (least_s is None or seconds >= least_s) and (most_s is None or seconds <= most_s)
        bounds = _bounds(least_s, most_s, " s")
        return Verdict(
            rule="age",
            passed=passed,
            reason=f"was registered {seconds:.0f} s ago, {bounds} is asked for",
            numbers={"age_s": round(seconds, 3), "min_age_s": least_s, "max_age_s": most_s},
        )

    return rule


def tag(key: str, value: str | None) -> Rule:
    """It carries a tag."""

    def rule(candidate: Candidate, champion: Candidate | None, seen: Observations) -> Verdict:
        found = candidate.version.tags.get(key)
        wanted = f"{key}={value}" if value is not None else f"{key}, with any value"
        told = f"has {key}={found}" if found is not None else f"has no tag {key}"
        passed = found is not None and value in (None, found)
        return Verdict(rule=f"tag:{key}", passed=passed, reason=f"{told}; {wanted} is asked for", numbers={"value": found})

    return rule


def loads(candidate: Candidate, champion: Candidate | None, seen: Observations) -> Verdict:
    """Infer loaded it just now, as serving would."""
    return Verdict(
        rule="loads",
        passed=seen.load_problem == "",
        reason="infer loaded it, and one step was finite" if seen.load_problem == "" else seen.load_problem or "was not tried",
    )


def not_blank(candidate: Candidate, champion: Candidate | None, seen: Observations) -> Verdict:
    """Something is to be seen on each of the policy's images, whatever the champion draws."""
    if seen.images is None:
        return Verdict(rule="not_blank", passed=False, reason=seen.image_problem or "no images were drawn")
    blank = seen.images.blank
    shown = ", ".join(map(str, blank))
    reason = f"draws nothing on image {shown} of the policy" if blank else "something is to be seen on every image"
    return Verdict(rule="not_blank", passed=not blank, reason=reason, numbers={"blank": float(len(blank))})


def drift(limit: Drift) -> Rule:
    """Its images are not too far from the champion's."""

    def rule(candidate: Candidate, champion: Candidate | None, seen: Observations) -> Verdict:
        if champion is None:
            return Verdict(rule="drift", passed=True, reason="there is no other champion to compare images with")
        if seen.images is None or not seen.images.distances:
            return Verdict(rule="drift", passed=False, reason=seen.image_problem or "no images were drawn")
        most = [limit.at_most if image.at_most is None else image.at_most for image in limit.images]
        measured = list(zip(seen.images.distances, most, strict=True))
        far = [f"image {n} is {d:.3f} away, at most {m:g} is allowed" for n, (d, m) in enumerate(measured, 1) if d > m]
        worst = max(seen.images.distances)
        near = f"its images are up to {worst:.3f} from those of version {champion.version.number}"
        return Verdict(
            rule="drift",
            passed=not far,
            reason=f"compared with version {champion.version.number}: {'; '.join(far)}" if far else near,
            numbers={"at_most": limit.at_most, **{f"image_{n}": round(value, 6) for n, (value, _) in enumerate(measured, 1)}},
        )

    return rule


def prompt_matters(least: float) -> Rule:
    """Two prompts give two images: a version that draws the same whatever it is asked for does not pass."""

    def rule(candidate: Candidate, champion: Candidate | None, seen: Observations) -> Verdict:
        found = seen.images.prompt_distance if seen.images else None
        if found is None:
            return Verdict(rule="prompt_matters", passed=False, reason=seen.image_problem or "no images were drawn")
        reason = f"images of different prompts are {found:.3f} apart, at least {least:g} is asked for"
        return Verdict(
            rule="prompt_matters", passed=found >= least, reason=reason, numbers={"apart": round(found, 6), "at_least": least}
        )

    return rule


def _missing(rule: str, candidate: Candidate) -> Verdict:
    problem = candidate.identity.evidence_problem if candidate.identity else "it is no adapter, so it has no evidence.json"
    return Verdict(rule=rule, passed=False, reason=problem)


def _bounds(low: float | None, high: float | None, unit: str = "") -> str:
    told = [f"{word} {limit:g}{unit}" for word, limit in (("at least", low), ("at most", high)) if limit is not None]
    return " and ".join(told)


def _number(value: float | None) -> float | str | None:
    """JSON has no NaN; what was seen is kept all the same, as text."""
    return value if value is None or math.isfinite(value) else str(value)
