"""Rules about a version's MLflow record and its files."""

from __future__ import annotations

from atelier_contracts.names import CHAMPION, KIND_ADAPTER, TAG_KIND, TAG_RETIRED
from atelier_contracts.promotion import Verdict

from atelier_registry.decisions.rules.candidate import Candidate, Observations, Rule, format_bounds
from atelier_registry.models.model_registry import READY


def ready(candidate: Candidate, champion: Candidate | None, observations: Observations) -> Verdict:
    status = candidate.version.status
    return Verdict(
        rule="ready",
        passed=status == READY,
        reason=f"has the status {status}" + ("" if status == READY else f"; an alias may only point at {READY} versions"),
        numbers={"status": status},
        binding=True,
    )


def is_adapter(candidate: Candidate, champion: Candidate | None, observations: Observations) -> Verdict:
    """Infer generates images with the champion, so the champion must be an adapter."""
    kind = candidate.version.kind
    found = f"has the tag {TAG_KIND}={kind}" if kind else f"has no tag {TAG_KIND}"
    return Verdict(
        rule="adapter",
        passed=kind == KIND_ADAPTER,
        reason=found + ("" if kind == KIND_ADAPTER else f"; {CHAMPION} requires {TAG_KIND}={KIND_ADAPTER}"),
        numbers={"kind": kind},
        binding=True,
    )


def same_files(candidate: Candidate, champion: Candidate | None, observations: Observations) -> Verdict:
    """Its files are consistent, and have the digest of an earlier decision where there is one."""
    identity, decided = candidate.identity, candidate.decided_digest
    if identity is None:
        return Verdict(rule="same_files", passed=True, reason="is no adapter, so it has no digest", binding=True)
    passed = identity.digest is not None and decided in (None, identity.digest)
    if identity.digest is None:
        reason = f"its files do not form an adapter: {identity.problem}"
    elif not passed:
        reason = (
            f"its files were changed: an earlier decision recorded the digest {decided}, and they now have "
            f"{identity.digest}; register them as a new version"
        )
    else:
        reason = "its files have the digest of the earlier decision" if decided else "its files are consistent"
    numbers: dict[str, float | str | None] = {"adapter_digest": identity.digest, "decided_digest": decided}
    return Verdict(rule="same_files", passed=passed, reason=reason, numbers=numbers, binding=True)


def not_retired(candidate: Candidate, champion: Candidate | None, observations: Observations) -> Verdict:
    retired = candidate.version.tags.get(TAG_RETIRED)
    return Verdict(
        rule="not_retired",
        passed=retired is None,
        reason=f"was retired by decision {retired}" if retired is not None else "is not retired",
        numbers={"retired": retired},
    )


def age(min_s: float | None, max_s: float | None) -> Rule:
    """It was registered at least and at most so long ago."""

    def rule(candidate: Candidate, champion: Candidate | None, observations: Observations) -> Verdict:
        age_s = (observations.now - candidate.version.created_at).total_seconds()
        return Verdict(
            rule="age",
            passed=(min_s is None or age_s >= min_s) and (max_s is None or age_s <= max_s),
            reason=f"was registered {age_s:.0f} s ago; required: {format_bounds(min_s, max_s, ' s')}",
            numbers={"age_s": round(age_s, 3), "min_age_s": min_s, "max_age_s": max_s},
        )

    return rule


def tag(key: str, value: str | None) -> Rule:
    """It has a tag; None: with any value."""

    def rule(candidate: Candidate, champion: Candidate | None, observations: Observations) -> Verdict:
        actual = candidate.version.tags.get(key)
        found = f"has {key}={actual}" if actual is not None else f"has no tag {key}"
        required = f"{key}={value}" if value is not None else f"{key} with any value"
        return Verdict(
            rule=f"tag:{key}",
            passed=actual is not None and value in (None, actual),
            reason=f"{found}; required: {required}",
            numbers={"value": actual},
        )

    return rule
