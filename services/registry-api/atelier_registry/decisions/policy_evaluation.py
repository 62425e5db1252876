"""Brings together what the rules need: MLflow's facts, the evidence, and infer's images; then asks the rules.

What infer shows takes seconds, and is asked before the alias is locked: it is about files with certain digests, and counts for
as long as the versions still have them. Everything else is read inside the lock, so a verdict never rests on what was true
before it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime

from atelier_contracts.names import CHAMPION, KIND_ADAPTER
from atelier_contracts.promotion import Verdict
from atelier_contracts.stage import StageImage, StageResponse

from atelier_registry.config.policy import AliasPolicy, Policy, same_but_the_prompt
from atelier_registry.decisions import rules
from atelier_registry.decisions.image_distance import ImageFindings, NotAnImageError, compare
from atelier_registry.decisions.rules import Candidate, Observations
from atelier_registry.errors import StageError
from atelier_registry.models.artifact_digests import AdapterDigests
from atelier_registry.models.catalogue import find_version
from atelier_registry.models.infer_client import InferClient
from atelier_registry.models.model_registry import Model, ModelRegistry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """What infer showed of a candidate, and of the champion beside it.

    Attributes:
        digests: version to the digest of the files that were asked for.
        load_problem: why the candidate cannot be loaded; empty where it can; None where infer was not asked.
        images: see `rules.Seen`.
        image_problem: see `rules.Seen`.
    """

    digests: dict[int, str | None] = field(default_factory=dict)
    load_problem: str | None = None
    images: ImageFindings | None = None
    image_problem: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Verdicts on a candidate, the digest of the files that they are about, and what infer showed."""

    verdicts: tuple[Verdict, ...]
    adapter_digest: str | None
    trial: Trial

    @property
    def allowed(self) -> bool:
        """Whether every rule passed."""
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def forceable(self) -> bool:
        """Whether only rules failed that force helps against."""
        return not any(verdict.binding and not verdict.passed for verdict in self.verdicts)


class PolicyEvaluator:
    """Asks the rules of the policy.

    Args:
        registry: where versions are.
        digests: what the versions' files are.
        policy: which rules.
        stager: who can tell whether a version loads, and what it draws.
    """

    def __init__(self, registry: ModelRegistry, digests: AdapterDigests, policy: Policy, infer_client: InferClient) -> None:
        self._registry, self._digests, self._policy, self._stager = registry, digests, policy, infer_client

    def policy(self, model: str, alias: str) -> AliasPolicy:
        """The rules for an alias."""
        return self._policy.of(model, alias)

    def promotion(self, model: Model, number: int, alias: str, trial: Trial | None = None) -> Evaluation:
        """What the policy says of a promotion.

        Args:
            model: as it is now.
            number: of the candidate.
            alias: that is to point at it.
            trial: of an earlier call; infer is asked again only where it was about other files.

        Raises:
            UnknownVersionError: there is no such version.
            UnavailableError: MLflow or the database does not answer.
        """
        policy = self._policy.of(model.name, alias)
        candidate = self._subject(model.name, number, policy)
        champion_number = model.aliases.get(CHAMPION)
        champion = None
        if champion_number not in (None, number) and (policy.better_than_champion or policy.drift):
            assert champion_number is not None
            champion = self._subject(model.name, champion_number, policy)
        trial = self._tried(candidate, champion, policy, trial)
        return self._judged(rules.rules_of(policy, alias), candidate, champion, trial)

    def roll_back(self, model: Model, number: int, alias: str, trial: Trial | None = None) -> Evaluation:
        """Whether a version can be gone back to: that it is there, whole, unchanged since it was decided on, and loads now.

        Raises:
            UnknownVersionError: there is no such version.
            UnavailableError: MLflow or the database does not answer.
        """
        target = self._subject(model.name, number, AliasPolicy())
        loadable = target.version.kind == KIND_ADAPTER  # infer loads nothing else
        trial = self._tried(target, None, AliasPolicy(loads=loadable), trial)
        return self._judged([*rules.standing(alias), *([rules.loads] if loadable else [])], target, None, trial)

    def _judged(self, asked: list[rules.Rule], candidate: Candidate, champion: Candidate | None, trial: Trial) -> Evaluation:
        seen = Observations(datetime.now(UTC), trial.load_problem, trial.images, trial.image_problem)
        verdicts = tuple(rule(candidate, champion, seen) for rule in asked)
        return Evaluation(verdicts, candidate.identity.digest if candidate.identity else None, trial)

    def _subject(self, name: str, number: int, policy: AliasPolicy) -> Candidate:
        """A version, with what the policy's rules look at: each part is a question to MLflow, and a promotion waits for it."""
        version = find_version(self._registry, name, number)
        numbers = bool(policy.metrics or policy.better_than_champion)
        run = self._registry.run(version.run_id) if version.run_id and numbers else None
        metrics = dict(run.metrics) if run else {}
        if version.kind != KIND_ADAPTER:
            return Candidate(version, metrics)
        return Candidate(version, metrics, self._digests.present(version), self._digests.decided(version))

    def _tried(self, candidate: Candidate, champion: Candidate | None, policy: AliasPolicy, earlier: Trial | None) -> Trial:
        subjects = [candidate, *([champion] if champion and policy.drift else [])]
        digests = {each.version.number: each.identity.digest if each.identity else None for each in subjects}
        if earlier is not None and earlier.digests == digests:
            return earlier
        if not (policy.loads or policy.drift):
            return Trial(digests)
        load_problem = self._problem(candidate) if policy.loads else None
        if not policy.drift:
            return Trial(digests, load_problem)
        asked = [image.request for image in policy.drift.images]
        try:
            drawn = [self._staged(each, asked).images for each in subjects]
            ours, *theirs = ([image.png for image in images] for images in drawn)
            findings = compare(ours, theirs[0] if theirs else [], same_but_the_prompt(asked))
            return Trial(digests, load_problem, findings)
        except (StageError, NotAnImageError) as error:
            return Trial(digests, load_problem, None, str(error))

    def _problem(self, subject: Candidate) -> str:
        try:
            self._staged(subject, [])
        except StageError as error:
            return str(error)
        return ""

    def _staged(self, subject: Candidate, images: list[StageImage]) -> StageResponse:
        digest = subject.identity.digest if subject.identity else None
        return self._stager.stage(subject.version.model, subject.version.number, images, adapter_digest=digest)
