"""Brings together what the rules need: MLflow's facts, the evidence, and infer's pictures; then asks the rules."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from atelier_contracts.manifests import Evidence
from atelier_contracts.names import CHAMPION, EVIDENCE_FILE, KIND_ADAPTER, KIND_BUNDLE
from atelier_contracts.promotion import Verdict

from atelier_registry import rules
from atelier_registry.catalogue import find_version, parsed
from atelier_registry.errors import StageError, UnreadableFileError
from atelier_registry.policy import AliasPolicy, Drift, Policy
from atelier_registry.registry import Model, ModelRegistry
from atelier_registry.rules import Seen, Subject
from atelier_registry.stager import Stager, distance

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """Verdicts, and what they rest on: they say nothing once an alias moved."""

    verdicts: tuple[Verdict, ...]
    aliases: dict[str, int | None]

    @property
    def allowed(self) -> bool:
        """Whether every rule passed."""
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def forceable(self) -> bool:
        """Whether only rules failed that force helps against."""
        return not any(verdict.binding and not verdict.passed for verdict in self.verdicts)

    def still_holds(self, model: Model) -> bool:
        """Whether the aliases are as they were."""
        return all(model.aliases.get(alias) == number for alias, number in self.aliases.items())


class Judge:
    """Asks the rules of the policy.

    Args:
        registry: where versions are.
        policy: which rules.
        stager: who can tell whether a version loads, and what it draws.
    """

    def __init__(self, registry: ModelRegistry, policy: Policy, stager: Stager) -> None:
        self._registry, self._policy, self._stager = registry, policy, stager

    def policy(self, model: str, alias: str) -> AliasPolicy:
        """The rules for an alias."""
        return self._policy.of(model, alias)

    def promotion(self, model: Model, number: int, alias: str) -> Judged:
        """What the policy says of a promotion.

        Raises:
            UnknownVersionError: there is no such version.
            TrackingUnavailableError: MLflow does not answer.
        """
        policy = self._policy.of(model.name, alias)
        candidate = self._subject(model.name, number, policy)
        champion_number = model.aliases.get(CHAMPION)
        champion = None
        if champion_number not in (None, number) and (policy.better_than_champion or policy.drift):
            assert champion_number is not None
            champion = self._subject(model.name, champion_number, policy)
        load_problem = self._load_problem(model.name, number) if policy.loads else None
        drift: tuple[float, ...] = ()
        drift_problem = ""
        if policy.drift and champion:
            drift, drift_problem = self._drift(model.name, number, champion.version.number, policy.drift)
        seen = Seen(datetime.now(UTC), load_problem, drift, drift_problem)
        verdicts = tuple(rule(candidate, champion, seen) for rule in rules.rules_of(policy, alias))
        return Judged(verdicts, {name: model.aliases.get(name) for name in (alias, CHAMPION)})

    def roll_back(self, model: Model, number: int, alias: str) -> Judged:
        """Whether a version can be gone back to: nothing but that it is there, whole, and loads now.

        Raises:
            UnknownVersionError: there is no such version.
            TrackingUnavailableError: MLflow does not answer.
        """
        target = self._subject(model.name, number, AliasPolicy())
        drawn_with = target.version.kind == KIND_ADAPTER  # infer loads nothing else
        asked = [*rules.standing(alias), *([rules.loads] if drawn_with else [])]
        problem = self._load_problem(model.name, number) if drawn_with else None
        seen = Seen(datetime.now(UTC), problem)
        return Judged(tuple(rule(target, None, seen) for rule in asked), {alias: model.aliases.get(alias)})

    def _subject(self, name: str, number: int, policy: AliasPolicy) -> Subject:
        """A version, with what the policy's rules look at: each part is a question to MLflow, and a promotion waits for it."""
        version = find_version(self._registry, name, number)
        numbers = bool(policy.metrics or policy.better_than_champion)
        if version.kind == KIND_BUNDLE or not (numbers or policy.output_finite or policy.max_onnx_error is not None):
            return Subject(version)
        run = self._registry.run(version.run_id) if version.run_id and numbers else None
        problems: list[str] = []
        evidence = None
        try:
            files = self._registry.files(name, number, [EVIDENCE_FILE])
            evidence = parsed(Evidence, EVIDENCE_FILE, files, problems)
        except UnreadableFileError as error:
            problems.append(f"evidence cannot be read: {error}")
        return Subject(version, dict(run.metrics) if run else {}, evidence, tuple(problems))

    def _load_problem(self, name: str, number: int) -> str:
        try:
            self._stager.stage(name, number)
        except StageError as error:
            return str(error)
        return ""

    def _drift(self, name: str, number: int, champion: int, limit: Drift) -> tuple[tuple[float, ...], str]:
        try:
            ours, theirs = (self._stager.stage(name, each, limit.pictures) for each in (number, champion))
            pairs = zip(ours.pictures, theirs.pictures, strict=True)
            return tuple(distance(one.png, other.png) for one, other in pairs), ""
        except StageError as error:
            return (), str(error)
