"""Promotions and roll backs: the rules are asked, the decision is kept, the alias moves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from atelier_contracts.promotion import Action, Decision, PromoteRequest, RollbackRequest, Verdict
from atelier_contracts.tokens import Role

from atelier_registry.api.caller import Caller, alias_etag, fingerprint
from atelier_registry.decisions import rules
from atelier_registry.decisions.alias_writer import AliasWriter
from atelier_registry.decisions.policy_evaluation import Evaluation, PolicyEvaluator, Trial
from atelier_registry.decisions.rollback_stack import previous, stacked
from atelier_registry.errors import KeyReusedError, NoEarlierVersionError, PolicyRefusedError
from atelier_registry.models.catalogue import find_model, find_version
from atelier_registry.models.model_registry import Model, ModelRegistry
from atelier_registry.storage.ledger import Facts, Kind, Ledger

APPROVAL = Verdict(rule="approval", passed=True, reason="somebody else than the proposer must approve before the alias moves")


class Promotions:
    """Decides on aliases.

    Args:
        registry: where versions and aliases are.
        ledger: where decisions are kept.
        mover: sets aliases.
        judge: asks the rules.
        preview: asks them for whoever only looks; it may be refused infer while decisions are not.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        ledger: Ledger,
        alias_writer: AliasWriter,
        evaluator: PolicyEvaluator,
        preview: PolicyEvaluator | None = None,
    ) -> None:
        self._registry, self._ledger, self._mover, self._judge = registry, ledger, alias_writer, evaluator
        self._preview = preview or evaluator

    def verdict(self, actor: str, name: str, number: int, request: PromoteRequest) -> Decision:
        """What a promotion would come to. Nothing is changed or kept.

        Raises:
            NotFoundError: the model or the version does not exist.
            UnavailableError: MLflow does not answer.
        """
        rules.check_alias(request.alias)
        model = find_model(self._registry, name)
        evaluation = self._preview.promotion(model, number, request.alias)
        needs_approval = self._judge.policy(name, request.alias).approval
        return _preview(actor, "promote", model, number, request, evaluation, [APPROVAL] * needs_approval)

    def promote(self, caller: Caller, name: str, number: int, request: PromoteRequest) -> Decision:
        """Points an alias at a version. What is already so stays so, and is answered with the decision that made it so.

        Raises:
            NotFoundError: the model or the version does not exist.
            RefusedError: the rules do not allow it, the conditions do not hold, or the key was used for something else.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        self._check(caller, request)
        if request.dry_run:
            return self.verdict(caller.id, name, number, request)

        def evaluator(model: Model, trial: Trial | None = None) -> tuple[int, Evaluation]:
            return number, self._judge.promotion(model, number, request.alias, trial)

        return self._decided(
            "promote", caller, name, request, evaluator, fingerprint("promote", name, number, request.model_dump())
        )

    def roll_back(self, caller: Caller, name: str, request: RollbackRequest) -> Decision:
        """Points an alias at the version before the present one, or at a named one that it pointed at earlier.

        See `rollback_stack.py` for what is before what.

        Raises:
            NoEarlierVersionError: the alias never pointed at the version that was named; or none was named, and there is none
                before, or it was deleted.
            NotFoundError: the model, or the version that was named, does not exist.
            RefusedError: the target was changed or does not load, the conditions do not hold, or the key was used for
                something else.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        self._check(caller, request)

        def evaluator(model: Model, trial: Trial | None = None) -> tuple[int, Evaluation]:
            number = self._before(model, request.alias) if request.version is None else request.version
            if request.version is not None:
                self._check_earlier(model, request.alias, number)
            return number, self._judge.roll_back(model, number, request.alias, trial)

        if request.dry_run:
            model = find_model(self._registry, name)
            number, evaluation = evaluator(model)
            return _preview(caller.id, "rollback", model, number, request, evaluation, [])
        return self._decided("rollback", caller, name, request, evaluator, fingerprint("rollback", name, request.model_dump()))

    def _check(self, caller: Caller, request: PromoteRequest) -> None:
        rules.check_alias(request.alias)
        if request.force:
            caller.check_role(Role.admin)

    def _decided(
        self,
        action: Action,
        caller: Caller,
        name: str,
        request: PromoteRequest,
        evaluator: Callable[[Model, Trial | None], tuple[int, Evaluation]],
        asked: str,
    ) -> Decision:
        if (earlier := self._earlier(caller, asked)) is not None:
            return earlier
        # infer may draw for a while, and a roll back must not wait for that: so it is asked before the lock
        _, first = evaluator(find_model(self._registry, name), None)
        with self._mover.alone(name, request.alias) as model:
            if (earlier := self._earlier(caller, asked)) is not None:
                return earlier
            present = model.aliases.get(request.alias)
            last = self._ledger.last_move(name, request.alias)
            caller.check_alias(alias_etag(last, present))
            number, evaluation = evaluator(model, first.trial)
            if present == number and last is not None and last.action != "outside" and evaluation.forceable:
                return self._ledger.decision(last.decision)
            facts = Facts(
                actor=caller.id,
                action=action,
                model=name,
                alias=request.alias,
                from_version=present,
                to_version=number,
                reason=request.reason,
                forced=request.force,
                key=caller.key,
                details=details(evaluation) | {"request": asked},
            )
            return self._kept(
                facts, evaluation, needs_approval=action == "promote" and self._judge.policy(name, request.alias).approval
            )

    def _kept(self, facts: Facts, evaluation: Evaluation, *, needs_approval: bool) -> Decision:
        if not evaluation.allowed and not (facts.forced and evaluation.forceable):
            raise PolicyRefusedError(self._ledger.open("refused", facts))
        kind: Kind = "proposed" if needs_approval and not facts.forced else "begun"
        if kind == "proposed":
            for waiting in self._ledger.page(facts.model, facts.alias, outcome="proposed", limit=100):
                if (waiting.actor, waiting.to_version, waiting.from_version) == (
                    facts.actor, facts.to_version, facts.from_version
                ):  # fmt: skip
                    return waiting
            return self._ledger.open(kind, facts)
        return self._mover.move(self._ledger.open(kind, facts), facts.actor)

    def _earlier(self, caller: Caller, asked: str) -> Decision | None:
        """What this key did before. What failed half-way did nothing, and is tried again."""
        found = self._ledger.by_key(caller.id, caller.key) if caller.key else None
        if found is None or found.outcome in ("failed", "pending"):
            return None
        if self._ledger.fingerprint(found.id) != asked:
            raise KeyReusedError(found.id)
        if found.outcome == "refused":
            raise PolicyRefusedError(found)
        return found

    def _check_earlier(self, model: Model, alias: str, number: int) -> None:
        find_version(self._registry, model.name, number)
        moves = self._ledger.moves(model.name, alias)
        earlier = {each for move in moves for each in (move.from_version, move.to_version) if each is not None}
        if number not in earlier:
            known = ", ".join(map(str, sorted(earlier))) or "none"
            raise NoEarlierVersionError(
                f"{alias!r} of {model.name} never pointed at version {number}, so it cannot go back there; it pointed at "
                f"{known}: name one of these, or promote the version"
            )

    def _before(self, model: Model, alias: str) -> int:
        present = model.aliases.get(alias)
        if present is None:
            raise NoEarlierVersionError(f"{model.name} has no alias {alias!r}, so nothing to roll back; promote a version")
        number = previous(stacked(self._ledger.moves(model.name, alias)), present)
        if number is None:
            raise NoEarlierVersionError(
                f"no version is known that {alias!r} of {model.name} pointed to before version {present}; name one in `version`"
            )
        if self._registry.version(model.name, number) is None:
            raise NoEarlierVersionError(
                f"{alias!r} of {model.name} pointed to version {number} before version {present}, and version {number} "
                "was deleted since; name another one in `version`"
            )
        return number


def details(evaluation: Evaluation) -> dict[str, Any]:
    """What an entry keeps of a judgement."""
    found: dict[str, Any] = {"verdicts": [verdict.model_dump() for verdict in evaluation.verdicts]}
    return found | ({"adapter_digest": evaluation.adapter_digest} if evaluation.adapter_digest else {})


def _preview(
    actor: str, action: Action, model: Model, number: int, request: PromoteRequest, evaluation: Evaluation, more: list[Verdict]
) -> Decision:
    return Decision(
        id=0,
        at=datetime.now(UTC),
        actor=actor,
        action=action,
        model=model.name,
        alias=request.alias,
        from_version=model.aliases.get(request.alias),
        to_version=number,
        reason=request.reason,
        outcome="dry_run",
        verdicts=[*evaluation.verdicts, *more],
        adapter_digest=evaluation.adapter_digest,
    )
