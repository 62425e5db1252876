"""Proposals: a second person approves or rejects what a first one asked for."""

from __future__ import annotations

from atelier_contracts.promotion import Decision

from atelier_registry.api.caller import Caller
from atelier_registry.decisions.alias_writer import AliasWriter
from atelier_registry.decisions.policy_evaluation import PolicyEvaluator
from atelier_registry.decisions.promotions import details
from atelier_registry.errors import NotProposedError, PolicyRefusedError, SelfApprovalError, UnknownDecisionError
from atelier_registry.models.catalogue import find_model
from atelier_registry.models.model_registry import ModelRegistry
from atelier_registry.storage.ledger import Ledger


class Approvals:
    """Decides on proposals. The rules are asked anew: what held when it was proposed may not hold any more."""

    def __init__(self, registry: ModelRegistry, ledger: Ledger, alias_writer: AliasWriter, evaluator: PolicyEvaluator) -> None:
        self._registry, self._ledger, self._mover, self._judge = registry, ledger, alias_writer, evaluator

    def find(self, number: int) -> Decision:
        """A decision.

        Raises:
            UnknownDecisionError: there is none with this id.
        """
        found = self._ledger.find(number)
        if found is None:
            raise UnknownDecisionError(number)
        return found

    def approve(self, caller: Caller, number: int, reason: str) -> Decision:
        """Carries out a proposal. Approving again what one approved is answered with the decision.

        Raises:
            UnknownDecisionError: there is no such decision.
            NotProposedError: it does not wait for an approval, or the alias or the version's files changed since.
            SelfApprovalError: the proposer asks.
            PolicyRefusedError: the rules do not hold any more; this ends the proposal.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        proposal = self.find(number)
        if proposal.approved_by == caller.id and proposal.outcome == "done":
            return proposal
        alias, version = self._open(proposal)
        if proposal.actor == caller.id:
            raise SelfApprovalError(caller.id, number)
        first = self._judge.promotion(find_model(self._registry, proposal.model), version, alias)
        with self._mover.alone(proposal.model, alias) as model:
            self._open(self.find(number))
            present = model.aliases.get(alias)
            if present != proposal.from_version:
                raise NotProposedError(
                    f"decision {number} was proposed to replace version {proposal.from_version}, and {alias!r} points at "
                    f"{present} now: propose it again, so that it is compared with that"
                )
            evaluation = self._judge.promotion(model, version, alias, first.trial)
            if proposal.adapter_digest not in (None, evaluation.adapter_digest):
                raise NotProposedError(
                    f"decision {number} proposed files with the digest {proposal.adapter_digest}, and version {version} has "
                    f"{evaluation.adapter_digest} now: register them as a new version, and propose that"
                )
            if not evaluation.allowed:
                raise PolicyRefusedError(self._ledger.close(proposal, "refused", caller.id, reason, details(evaluation)))
            return self._mover.move(self._ledger.close(proposal, "begun", caller.id, reason, details(evaluation)), caller.id)

    def reject(self, caller: Caller, number: int, reason: str) -> Decision:
        """Ends a proposal without carrying it out; the proposer may do so too.

        Raises:
            UnknownDecisionError: there is no such decision.
            NotProposedError: it does not wait for an approval.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        proposal = self.find(number)
        alias, _ = self._open(proposal)
        with self._mover.alone(proposal.model, alias):
            self._open(self.find(number))
            return self._ledger.close(proposal, "rejected", caller.id, reason)

    @staticmethod
    def _open(proposal: Decision) -> tuple[str, int]:
        if proposal.outcome != "proposed" or proposal.alias is None or proposal.to_version is None:
            raise NotProposedError(f"decision {proposal.id} is {proposal.outcome}, and does not wait for an approval")
        return proposal.alias, proposal.to_version
