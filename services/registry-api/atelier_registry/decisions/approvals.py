"""Proposals: a second person approves or rejects what a first one proposed."""

from __future__ import annotations

from atelier_contracts.promotion import Decision

from atelier_registry.decisions.alias_writer import AliasWriter
from atelier_registry.decisions.caller import Caller
from atelier_registry.decisions.policy_evaluation import PolicyEvaluator
from atelier_registry.decisions.promotions import evaluation_details
from atelier_registry.errors import NotProposedError, PolicyRefusedError, SelfApprovalError, UnknownDecisionError
from atelier_registry.models.catalogue import find_model
from atelier_registry.models.model_registry import ModelRegistry
from atelier_registry.storage.ledger import Ledger


class Approvals:
    """Decides on proposals. The policy is evaluated again, since what held for the proposal may no longer hold."""

    def __init__(self, registry: ModelRegistry, ledger: Ledger, alias_writer: AliasWriter, evaluator: PolicyEvaluator) -> None:
        self._registry, self._ledger, self._alias_writer, self._evaluator = registry, ledger, alias_writer, evaluator

    def find(self, decision_id: int) -> Decision:
        """Raises `UnknownDecisionError` where no decision has this id."""
        decision = self._ledger.find(decision_id)
        if decision is None:
            raise UnknownDecisionError(decision_id)
        return decision

    def approve(self, caller: Caller, decision_id: int, reason: str) -> Decision:
        """Carries a proposal out. Approving it again returns the decision.

        Raises:
            UnknownDecisionError: there is no such decision.
            NotProposedError: it is not waiting for approval, or the alias or the version's files changed since.
            SelfApprovalError: the caller proposed it.
            PolicyRefusedError: a rule no longer passes; this ends the proposal.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        proposal = self.find(decision_id)
        if proposal.approved_by == caller.id and proposal.outcome == "done":
            return proposal
        alias, version = _check_waiting(proposal)
        if proposal.actor == caller.id:
            raise SelfApprovalError(caller.id, decision_id)
        trial = self._evaluator.promotion(find_model(self._registry, proposal.model), version, alias).trial
        with self._alias_writer.locked(proposal.model, alias) as model:
            _check_waiting(self.find(decision_id))
            current = model.aliases.get(alias)
            if current != proposal.from_version:
                raise NotProposedError(
                    f"decision {decision_id} proposes to replace version {proposal.from_version}, but {alias!r} now points at "
                    f"{current}: propose it again, so that it is compared with that version"
                )
            evaluation = self._evaluator.promotion(model, version, alias, trial)
            if proposal.adapter_digest not in (None, evaluation.adapter_digest):
                raise NotProposedError(
                    f"decision {decision_id} proposes files with the digest {proposal.adapter_digest}, but version {version} "
                    f"now has {evaluation.adapter_digest}: register them as a new version, and propose that"
                )
            details = evaluation_details(evaluation)
            if not evaluation.allowed:
                raise PolicyRefusedError(self._ledger.close(proposal, "refused", caller.id, reason, details=details))
            begun = self._ledger.close(proposal, "begun", caller.id, reason, details=details)
            return self._alias_writer.move(begun, caller.id)

    def reject(self, caller: Caller, decision_id: int, reason: str) -> Decision:
        """Ends a proposal without carrying it out; the proposer may do so too.

        Raises:
            UnknownDecisionError: there is no such decision.
            NotProposedError: it is not waiting for approval.
            UnavailableError: MLflow or the database does not answer, or other decisions take too long.
        """
        proposal = self.find(decision_id)
        alias, _ = _check_waiting(proposal)
        with self._alias_writer.locked(proposal.model, alias):
            _check_waiting(self.find(decision_id))
            return self._ledger.close(proposal, "rejected", caller.id, reason)


def _check_waiting(proposal: Decision) -> tuple[str, int]:
    """Alias and version of a proposal; raises `NotProposedError` where it is not waiting for approval."""
    if proposal.outcome != "proposed" or proposal.alias is None or proposal.to_version is None:
        raise NotProposedError(f"decision {proposal.id} is {proposal.outcome}, and is not waiting for approval")
    return proposal.alias, proposal.to_version
