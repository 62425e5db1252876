"""The policy: which rules hold for which alias of which model. Read once, at the start, with every problem told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from atelier_contracts.stage import MAX_PICTURES, StagePicture
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atelier_registry.errors import PolicyError

ANY = "*"
"""In the place of an alias: every alias that is not named beside it."""

BUILT_IN = Path(__file__).with_name("policy.yaml")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Bound(_Strict):
    """A metric that must be there, and within its bounds where these are given."""

    name: str = Field(min_length=1, max_length=250)
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Bound:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least must not exceed at_most; received {self.at_least:g} and {self.at_most:g}")
        return self


class Better(_Strict):
    """How much better than the champion. Compared only where both were measured on the same validation data."""

    metric: str = Field(default="validation_loss", min_length=1, max_length=250)
    by_at_least: float = Field(default=0.0, ge=0)
    higher_is_better: bool = False


class Drift(_Strict):
    """How far the pictures may be from the champion's: the mean absolute difference of pixels, 0 to 1, of the worst picture."""

    at_most: float = Field(ge=0, le=1)
    pictures: list[StagePicture] = Field(min_length=1, max_length=MAX_PICTURES)


class AliasPolicy(_Strict):
    """What must hold before one alias may point at a version. A field that is left out asks for nothing."""

    metrics: list[Bound] = Field(default_factory=list, description="metrics that must be there, and their bounds")
    better_than_champion: Better | None = Field(default=None, description="by how much, in which metric")
    min_age_s: float | None = Field(default=None, ge=0, description="s since the version was registered, at least")
    max_age_s: float | None = Field(default=None, ge=0, description="s since the version was registered, at most")
    tags: dict[str, str | None] = Field(default_factory=dict, description="tags and their values; null: any value")
    output_finite: bool = Field(default=False, description="evidence.json must say that the output was finite")
    max_onnx_error: float | None = Field(default=None, ge=0, description="onnx_max_error of evidence.json, at most")
    loads: bool = Field(default=False, description="infer must be able to load the version now")
    drift: Drift | None = Field(default=None, description="distance from the champion on fixed prompts and seeds")
    approval: bool = Field(default=False, description="somebody else than the proposer must approve")

    @model_validator(mode="after")
    def _possible(self) -> AliasPolicy:
        if self.min_age_s is not None and self.max_age_s is not None and self.min_age_s > self.max_age_s:
            raise ValueError(f"min_age_s must not exceed max_age_s; received {self.min_age_s:g} and {self.max_age_s:g}")
        return self


class Policy(_Strict):
    """Rules by alias, for every model and for single ones."""

    default: dict[str, AliasPolicy] = Field(default_factory=dict)
    models: dict[str, dict[str, AliasPolicy]] = Field(default_factory=dict)

    def of(self, model: str, alias: str) -> AliasPolicy:
        """The rules for an alias: the model's own, or its `*`, or the default's, or the default's `*`, or none."""
        for rules in (self.models.get(model, {}), self.default):
            for name in (alias, ANY):
                if name in rules:
                    return rules[name]
        return AliasPolicy()


def read_policy(path: Path = BUILT_IN) -> Policy:
    """Reads a policy file.

    Raises:
        PolicyError: it cannot be read, is not YAML, or breaks rules; the message lists all of them.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _NoTwice)  # noqa: S506  a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"the policy cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise PolicyError(f"the policy is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise PolicyError("the policy must be a mapping with `default` and `models`; received " + type(content).__name__)
    try:
        return Policy.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_told(each) for each in error.errors())
        raise PolicyError(f"the policy breaks rules: {problems}") from None


def _told(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{place}: no such field"
    if problem["type"] == "missing":
        return f"{place}: is required"
    received = repr(problem["input"])
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}; received {received[:80]}"


class _NoTwice(yaml.SafeLoader):
    """YAML takes the last of two equal keys in silence: a rule could be lost that way."""


def _mapping(loader: _NoTwice, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} occurs twice", node.start_mark)
    return dict(loader.construct_mapping(node, deep=True))


_NoTwice.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
