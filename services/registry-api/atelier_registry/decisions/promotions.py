"""Promotions and roll backs: the policy is evaluated, the decision is recorded, the alias moves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from atelier_contracts.promotion import Decision, PromoteRequest, RollbackRequest, Verdict
from atelier_contracts.tokens import Role

from atelier_registry.decisions.alias_writer import AliasWriter
from atelier_registry.decisions.caller import Caller, alias_etag, find_repeated, fingerprint
from atelier_registry.decisions.policy_evaluation import Evaluation, PolicyEvaluator, Trial
from atelier_registry.decisions.rollback_stack import build_stack, previous
from atelier_registry.decisions.rules.rule_set import check_alias_name
from atelier_registry.errors import NoEarlierVersionError, PolicyRefusedError
from atelier_registry.models.catalogue import find_model, find_version
from atelier_registry.models.model_registry import Model, ModelRegistry
from atelier_registry.storage.entries import DecisionFacts
from atelier_registry.storage.ledger import Ledger

APPROVAL = Verdict(rule="approval", passed=True, reason="somebody other than the proposer must approve before the alias moves")


@dataclass(frozen=True)
class AliasChange:
    """A request to point an alias at another version.

    Attributes:
        version: None: the previous one, which only a roll back may ask for.
    """

    action: Literal["promote", "rollback"]
    model: str
    version: int | None
    request: PromoteRequest

    @property
    def alias(self) -> str:
        return self.request.alias

    @property
    def fingerprint(self) -> str:
        target = (self.version,) if self.action == "promote" else ()
        return fingerprint(self.action, self.model, *target, self.request.model_dump())


class Promotions:
    """Decides on aliases.

    Args:
        registry: versions and aliases.
        ledger: the decisions.
        alias_writer: moves aliases.
        evaluator: evaluates the policy.
        preview_evaluator: does so for verdicts that are only displayed; its share of infer's capacity is separate.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        ledger: Ledger,
        alias_writer: AliasWriter,
        evaluator: PolicyEvaluator,
        preview_evaluator: PolicyEvaluator,
    ) -> None:
        self._registry, self._ledger, self._alias_writer = registry, ledger, alias_writer
        self._evaluator, self._preview_evaluator = evaluator, preview_evaluator

    def verdict(self, caller: Caller, name: str, number: int, request: PromoteRequest) -> Decision:
        """The outcome that a promotion would have. Nothing is changed or recorded.

        Raises:
            NotFoundError: the model or the version does not exist.
            UnavailableError: MLflow does not answer.
        """
        check_alias_name(request.alias)
        model = find_model(self._registry, name)
        evaluation = self._preview_evaluator.promotion(model, number, request.alias)
        needs_approval = self._evaluator.policy(name, request.alias).approval
        change = AliasChange("promote", name, number, request)
        return _dry_run(caller, change, model, evaluation, [APPROVAL] if needs_approval else [])

    def promote(self, caller: Caller, name: str, number: int, request: PromoteRequest) -> Decision:
        """Points an alias at a version. Where it already does, returns the decision that pointed it there.

        Raises:
            NotFoundError: the model or the version does not exist.
            RefusedError: a rule did not pass, a precondition does not hold, or the key was used for another request.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        _check_request(caller, request)
        if request.dry_run:
            return self.verdict(caller, name, number, request)
        return self._decide(caller, AliasChange("promote", name, number, request))

    def roll_back(self, caller: Caller, name: str, request: RollbackRequest) -> Decision:
        """Points an alias at its previous version, as `rollback_stack` defines it, or at a named earlier one.

        Raises:
            NoEarlierVersionError: the alias never pointed at the named version; or none was named, and there is no previous
                version, or it was deleted.
            NotFoundError: the model or the named version does not exist.
            RefusedError: the target was changed or does not load, a precondition does not hold, or the key was used for
                another request.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        _check_request(caller, request)
        change = AliasChange("rollback", name, request.version, request)
        if request.dry_run:
            model = find_model(self._registry, name)
            return _dry_run(caller, change, model, self._evaluate(change, model), [])
        return self._decide(caller, change)

    def _decide(self, caller: Caller, change: AliasChange) -> Decision:
        if (repeated := self._find_repeated(caller, change)) is not None:
            return repeated
        # infer may take seconds, which must not block a roll back: so it is asked before the lock
        trial = self._evaluate(change, find_model(self._registry, change.model)).trial
        with self._alias_writer.locked(change.model, change.alias) as model:
            if (repeated := self._find_repeated(caller, change)) is not None:
                return repeated
            current = model.aliases.get(change.alias)
            last = self._ledger.alias_moves.last(change.model, change.alias)
            caller.check_preconditions(alias_etag(last, current))
            evaluation = self._evaluate(change, model, trial)
            if current == evaluation.version and last is not None and last.action != "outside" and evaluation.forceable:
                return self._ledger.decision(last.decision)
            facts = DecisionFacts(
                actor=caller.id,
                action=change.action,
                model=change.model,
                alias=change.alias,
                from_version=current,
                to_version=evaluation.version,
                reason=change.request.reason,
                forced=change.request.force,
                key=caller.key,
                details=evaluation_details(evaluation) | {"request": change.fingerprint},
            )
            return self._record(facts, evaluation)

    def _evaluate(self, change: AliasChange, model: Model, trial: Trial | None = None) -> Evaluation:
        if change.action == "promote":
            assert change.version is not None
            return self._evaluator.promotion(model, change.version, change.alias, trial)
        number = self._previous(model, change.alias) if change.version is None else change.version
        if change.version is not None:
            self._check_earlier(model, change.alias, number)
        return self._evaluator.roll_back(model, number, change.alias, trial)

    def _record(self, facts: DecisionFacts, evaluation: Evaluation) -> Decision:
        if not evaluation.allowed and not (facts.forced and evaluation.forceable):
            raise PolicyRefusedError(self._ledger.open("refused", facts))
        assert facts.alias is not None
        if facts.action == "promote" and not facts.forced and self._evaluator.policy(facts.model, facts.alias).approval:
            return self._find_same_proposal(facts) or self._ledger.open("proposed", facts)
        return self._alias_writer.move(self._ledger.open("begun", facts), facts.actor)

    def _find_same_proposal(self, facts: DecisionFacts) -> Decision | None:
        proposed = (facts.actor, facts.from_version, facts.to_version)
        for proposal in self._ledger.page(facts.model, facts.alias, outcome="proposed", limit=100):
            if (proposal.actor, proposal.from_version, proposal.to_version) == proposed:
                return proposal
        return None

    def _find_repeated(self, caller: Caller, change: AliasChange) -> Decision | None:
        repeated = find_repeated(self._ledger, caller, change.fingerprint)
        if repeated is not None and repeated.outcome == "refused":
            raise PolicyRefusedError(repeated)
        return repeated

    def _check_earlier(self, model: Model, alias: str, number: int) -> None:
        find_version(self._registry, model.name, number)
        moves = self._ledger.alias_moves.history(model.name, alias)
        earlier = {version for move in moves for version in (move.from_version, move.to_version) if version is not None}
        if number not in earlier:
            listed = ", ".join(map(str, sorted(earlier))) or "no version"
            raise NoEarlierVersionError(
                f"a roll back goes to a version that the alias pointed at before; {alias!r} of {model.name} never pointed at "
                f"version {number}, only at {listed}: name one of these, or promote the version"
            )

    def _previous(self, model: Model, alias: str) -> int:
        current = model.aliases.get(alias)
        if current is None:
            raise NoEarlierVersionError(f"{model.name} has no alias {alias!r} to roll back; promote a version first")
        number = previous(build_stack(self._ledger.alias_moves.history(model.name, alias)), current)
        if number is None:
            raise NoEarlierVersionError(
                f"{alias!r} of {model.name} pointed at no other version before version {current}; name one in `version`"
            )
        if self._registry.version(model.name, number) is None:
            raise NoEarlierVersionError(
                f"{alias!r} of {model.name} pointed at version {number} before version {current}, and version {number} "
                "was deleted; name another one in `version`"
            )
        return number


def evaluation_details(evaluation: Evaluation) -> dict[str, Any]:
    """What an entry records of an evaluation."""
    details: dict[str, Any] = {"verdicts": [verdict.model_dump() for verdict in evaluation.verdicts]}
    return details | ({"adapter_digest": evaluation.adapter_digest} if evaluation.adapter_digest else {})


def _check_request(caller: Caller, request: PromoteRequest) -> None:
    check_alias_name(request.alias)
    if request.force:
        caller.check_role(Role.admin)


def _dry_run(
    caller: Caller, change: AliasChange, model: Model, evaluation: Evaluation, more_verdicts: list[Verdict]
) -> Decision:
    return Decision(
        id=0,
        at=datetime.now(UTC),
        actor=caller.id,
        action=change.action,
        model=model.name,
        alias=change.alias,
        from_version=model.aliases.get(change.alias),
        to_version=evaluation.version,
        reason=change.request.reason,
        outcome="dry_run",
        verdicts=[*evaluation.verdicts, *more_verdicts],
        adapter_digest=evaluation.adapter_digest,
    )
