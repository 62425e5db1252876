"""Selects the rules of a promotion or a roll back."""

from __future__ import annotations

import re

from atelier_contracts.names import CHAMPION

from atelier_registry.config.policy import AliasPolicy
from atelier_registry.decisions.rules.candidate import Rule
from atelier_registry.decisions.rules.evidence_rules import better_than_champion, metric_bound, onnx_error, output_finite
from atelier_registry.decisions.rules.infer_rules import drift, loads, not_blank, prompt_sensitivity
from atelier_registry.decisions.rules.version_rules import age, is_adapter, not_retired, ready, same_files, tag
from atelier_registry.errors import InvalidArgumentError


def check_alias_name(alias: str) -> None:
    """Refuses names that MLflow reserves, before anything is written.

    Raises:
        InvalidArgumentError: the alias is `latest`, or looks like a version such as `v7`.
    """
    if alias == "latest" or re.fullmatch(r"v\d+", alias):
        raise InvalidArgumentError(
            f"MLflow reserves the alias names `latest` and `v` with a number; received {alias!r}: choose another name"
        )


def standing_rules(alias: str) -> list[Rule]:
    """Rules that hold whatever the policy says. Only `not_retired` can be overridden with force."""
    return [ready, *([is_adapter] if alias == CHAMPION else []), same_files, not_retired]


def rollback_rules(alias: str, *, loadable: bool) -> list[Rule]:
    """A roll back asks only that the target is sound and loads; infer loads nothing but adapters."""
    return [*standing_rules(alias), *([loads] if loadable else [])]


def promotion_rules(policy: AliasPolicy, alias: str) -> list[Rule]:
    """In the order of the verdicts."""
    rules = standing_rules(alias)
    if policy.output_finite:
        rules.append(output_finite)
    if policy.max_onnx_error is not None:
        rules.append(onnx_error(policy.max_onnx_error))
    rules += [metric_bound(bound) for bound in policy.metrics]
    if policy.better_than_champion:
        rules.append(better_than_champion(policy.better_than_champion))
    if policy.min_age_s is not None or policy.max_age_s is not None:
        rules.append(age(policy.min_age_s, policy.max_age_s))
    rules += [tag(key, value) for key, value in sorted(policy.tags.items())]
    if policy.loads:
        rules.append(loads)
    if policy.drift:
        rules += [not_blank, drift(policy.drift)]
        if policy.drift.prompts_apart_by is not None:
            rules.append(prompt_sensitivity(policy.drift.prompts_apart_by))
    return rules
