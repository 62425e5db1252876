"""Evaluates the policy: gathers what the rules need from MLflow, the evidence and infer, and applies them.

infer takes seconds, so it is asked before the alias is locked. Its answer concerns files with certain digests, and is valid as
long as the versions still have them. Everything else is read inside the lock, so no verdict rests on an earlier state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from atelier_contracts.names import CHAMPION, KIND_ADAPTER
from atelier_contracts.promotion import Verdict
from atelier_contracts.stage import StageImage, StageResponse

from atelier_registry.config.policy import AliasPolicy, Policy, same_except_prompt
from atelier_registry.decisions.image_distance import ImageComparison, NotAnImageError, compare
from atelier_registry.decisions.rules.candidate import Candidate, Observations, Rule
from atelier_registry.decisions.rules.rule_set import promotion_rules, rollback_rules
from atelier_registry.errors import StageError
from atelier_registry.models.artifact_digests import AdapterDigests
from atelier_registry.models.catalogue import find_version
from atelier_registry.models.infer_client import InferClient
from atelier_registry.models.model_registry import Model, ModelRegistry


@dataclass(frozen=True)
class Trial:
    """What infer observed about a candidate and the champion.

    Attributes:
        digests: version to the digest of the files that were loaded.
        load_problem: as in `Observations`.
        images: as in `Observations`.
        image_problem: as in `Observations`.
    """

    digests: dict[int, str | None] = field(default_factory=dict)
    load_problem: str | None = None
    images: ImageComparison | None = None
    image_problem: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Verdicts on a version, the digest of the files that they are about, and infer's observations."""

    version: int
    verdicts: tuple[Verdict, ...]
    adapter_digest: str | None
    trial: Trial

    @property
    def allowed(self) -> bool:
        """Whether every rule passed."""
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def forceable(self) -> bool:
        """Whether force may override every rule that did not pass."""
        return not any(verdict.binding and not verdict.passed for verdict in self.verdicts)


class PolicyEvaluator:
    """Applies the rules.

    Args:
        registry: the versions.
        digests: of the versions' files.
        policy: which rules hold.
        infer_client: loads versions and generates their images.
    """

    def __init__(self, registry: ModelRegistry, digests: AdapterDigests, policy: Policy, infer_client: InferClient) -> None:
        self._registry, self._digests, self._policy, self._infer_client = registry, digests, policy, infer_client

    def policy(self, model: str, alias: str) -> AliasPolicy:
        return self._policy.of(model, alias)

    def promotion(self, model: Model, number: int, alias: str, trial: Trial | None = None) -> Evaluation:
        """Evaluates whether the alias may point at a version.

        Args:
            model: as it is now.
            number: the version.
            alias: name of the alias.
            trial: from before the lock; infer is asked again only where it is about other files.

        Raises:
            UnknownVersionError: there is no such version.
            UnavailableError: MLflow or the database does not answer.
        """
        policy = self._policy.of(model.name, alias)
        candidate = self._candidate(model.name, number, policy)
        champion_number = model.aliases.get(CHAMPION)
        champion = None
        if champion_number not in (None, number) and (policy.better_than_champion or policy.drift):
            assert champion_number is not None
            champion = self._candidate(model.name, champion_number, policy)
        trial = self._trial(candidate, champion, policy, trial)
        return _evaluate(promotion_rules(policy, alias), candidate, champion, trial)

    def roll_back(self, model: Model, number: int, alias: str, trial: Trial | None = None) -> Evaluation:
        """Evaluates whether the alias may go back to a version: it exists, is sound and unchanged, and loads.

        Raises:
            UnknownVersionError: there is no such version.
            UnavailableError: MLflow or the database does not answer.
        """
        target = self._candidate(model.name, number, AliasPolicy())
        loadable = target.version.kind == KIND_ADAPTER
        trial = self._trial(target, None, AliasPolicy(loads=loadable), trial)
        return _evaluate(rollback_rules(alias, loadable=loadable), target, None, trial)

    def _candidate(self, name: str, number: int, policy: AliasPolicy) -> Candidate:
        """A version with only what the policy's rules need: each part is a request to MLflow that a promotion waits for."""
        version = find_version(self._registry, name, number)
        needs_metrics = bool(policy.metrics or policy.better_than_champion)
        run = self._registry.run(version.run_id) if version.run_id and needs_metrics else None
        metrics = dict(run.metrics) if run else {}
        if version.kind != KIND_ADAPTER:
            return Candidate(version, metrics)
        return Candidate(version, metrics, self._digests.read(version), self._digests.decided(version))

    def _trial(self, candidate: Candidate, champion: Candidate | None, policy: AliasPolicy, earlier: Trial | None) -> Trial:
        compared = [candidate, *([champion] if champion and policy.drift else [])]
        digests = {each.version.number: each.identity.digest if each.identity else None for each in compared}
        if earlier is not None and earlier.digests == digests:
            return earlier
        load_problem = self._load_problem(candidate) if policy.loads else None
        if not policy.drift:
            return Trial(digests, load_problem)
        requested = [image.request for image in policy.drift.images]
        try:
            candidate_images, *champion_images = (self._generate(each, requested) for each in compared)
            prompt_pairs = same_except_prompt(requested)
            comparison = compare(candidate_images, champion_images[0] if champion_images else [], prompt_pairs)
            return Trial(digests, load_problem, comparison)
        except (StageError, NotAnImageError) as error:
            return Trial(digests, load_problem, None, str(error))

    def _load_problem(self, candidate: Candidate) -> str:
        try:
            self._stage(candidate, [])
        except StageError as error:
            return str(error)
        return ""

    def _generate(self, candidate: Candidate, images: list[StageImage]) -> list[bytes]:
        return [image.png for image in self._stage(candidate, images).images]

    def _stage(self, candidate: Candidate, images: list[StageImage]) -> StageResponse:
        digest = candidate.identity.digest if candidate.identity else None
        version = candidate.version
        return self._infer_client.stage(version.model, version.number, images, adapter_digest=digest)


def _evaluate(rules: list[Rule], candidate: Candidate, champion: Candidate | None, trial: Trial) -> Evaluation:
    observations = Observations(datetime.now(UTC), trial.load_problem, trial.images, trial.image_problem)
    verdicts = tuple(rule(candidate, champion, observations) for rule in rules)
    digest = candidate.identity.digest if candidate.identity else None
    return Evaluation(candidate.version.number, verdicts, digest, trial)
