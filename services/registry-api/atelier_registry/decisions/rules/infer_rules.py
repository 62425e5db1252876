"""Rules about what infer observed: whether the version loads, and the images it generates."""

from __future__ import annotations

from atelier_contracts.promotion import Verdict

from atelier_registry.config.policy import Drift
from atelier_registry.decisions.rules.candidate import Candidate, Observations, Rule

_NO_IMAGES = "no images were generated"


def loads(candidate: Candidate, champion: Candidate | None, observations: Observations) -> Verdict:
    """Infer loaded it just now, as serving would."""
    problem = observations.load_problem
    return Verdict(
        rule="loads",
        passed=problem == "",
        reason="infer loaded it, and one step was finite" if problem == "" else problem or "was not loaded",
    )


def not_blank(candidate: Candidate, champion: Candidate | None, observations: Observations) -> Verdict:
    """None of the policy's images is blank, whatever the champion generates."""
    if observations.images is None:
        return Verdict(rule="not_blank", passed=False, reason=observations.image_problem or _NO_IMAGES)
    blank = observations.images.blank
    numbers = ", ".join(map(str, blank))
    reason = f"image {numbers} of the policy is blank" if blank else "no image is blank"
    return Verdict(rule="not_blank", passed=not blank, reason=reason, numbers={"blank": float(len(blank))})


def drift(limit: Drift) -> Rule:
    """Its images are not too different from the champion's."""

    def rule(candidate: Candidate, champion: Candidate | None, observations: Observations) -> Verdict:
        if champion is None:
            return Verdict(rule="drift", passed=True, reason="there is no other champion to compare images with")
        if observations.images is None or not observations.images.distances:
            return Verdict(rule="drift", passed=False, reason=observations.image_problem or _NO_IMAGES)
        limits = [limit.at_most if image.at_most is None else image.at_most for image in limit.images]
        measured = list(enumerate(zip(observations.images.distances, limits, strict=True), 1))
        exceeded = [
            f"image {number} has the distance {distance:.3f}; at most {most:g} is allowed"
            for number, (distance, most) in measured
            if distance > most
        ]
        largest = max(observations.images.distances)
        within = f"its images are at most {largest:.3f} from those of version {champion.version.number}"
        return Verdict(
            rule="drift",
            passed=not exceeded,
            reason=f"compared with version {champion.version.number}: {'; '.join(exceeded)}" if exceeded else within,
            numbers={"at_most": limit.at_most, **{f"image_{number}": round(value, 6) for number, (value, _) in measured}},
        )

    return rule


def prompt_sensitivity(min_distance: float) -> Rule:
    """Different prompts give different images: a version that ignores its prompt does not pass."""

    def rule(candidate: Candidate, champion: Candidate | None, observations: Observations) -> Verdict:
        distance = observations.images.prompt_distance if observations.images else None
        if distance is None:
            return Verdict(rule="prompt_sensitivity", passed=False, reason=observations.image_problem or _NO_IMAGES)
        return Verdict(
            rule="prompt_sensitivity",
            passed=distance >= min_distance,
            reason=f"images of different prompts have the distance {distance:.3f}; required: at least {min_distance:g}",
            numbers={"distance": round(distance, 6), "at_least": min_distance},
        )

    return rule
