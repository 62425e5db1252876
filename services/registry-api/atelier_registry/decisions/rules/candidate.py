"""What a rule is, and what it gets to see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite

from atelier_contracts.manifests import Evidence
from atelier_contracts.promotion import Verdict

from atelier_registry.decisions.image_distance import ImageComparison
from atelier_registry.models.artifact_digests import AdapterIdentity
from atelier_registry.models.model_registry import Version


@dataclass(frozen=True)
class Candidate:
    """A version as the rules see it.

    Attributes:
        metrics: last values of the run's metrics.
        identity: of its files; None where it is no adapter.
        decided_digest: of its files in an earlier decision; None without one.
    """

    version: Version
    metrics: Mapping[str, float] = field(default_factory=dict)
    identity: AdapterIdentity | None = None
    decided_digest: str | None = None

    @property
    def evidence(self) -> Evidence | None:
        """What the trainer measured on exactly these weights."""
        return self.identity.evidence if self.identity else None

    def value(self, metric: str) -> float | None:
        """From the evidence, or else the run's metric."""
        if self.evidence and metric in ("validation_loss", "base_validation_loss", "onnx_max_error"):
            value: float | None = getattr(self.evidence, metric)
            return value
        return self.metrics.get(metric)


@dataclass(frozen=True)
class Observations:
    """What was observed for the rules, apart from the versions themselves.

    Attributes:
        now: time of the evaluation.
        load_problem: why infer cannot load the candidate; empty where it can; None where it was not asked to.
        images: comparison of the policy's images; None where they were not generated.
        image_problem: why they were not; empty where they were.
    """

    now: datetime
    load_problem: str | None = None
    images: ImageComparison | None = None
    image_problem: str = ""


Rule = Callable[[Candidate, Candidate | None, Observations], Verdict]
"""From a candidate, the champion that it is compared with (None without one) and the observations: pure, no input or output."""


def json_number(value: float | None) -> float | str | None:
    """JSON has no NaN and infinities; they are recorded as text."""
    return value if value is None or isfinite(value) else str(value)


def format_bounds(low: float | None, high: float | None, unit: str = "") -> str:
    """Such as `at least 1 s and at most 2 s`; empty without bounds."""
    bounds = [f"{word} {limit:g}{unit}" for word, limit in (("at least", low), ("at most", high)) if limit is not None]
    return " and ".join(bounds)
