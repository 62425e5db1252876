"""The policy: which rules hold for which alias of which model. Read once, at the start."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from atelier_contracts.stage import MAX_IMAGES, StageImage
from pydantic import Field, model_validator

from atelier_registry.config.strict_yaml import Strict, StrictYamlError, read_yaml
from atelier_registry.errors import PolicyError

ANY = "*"
"""Stands for every alias that is not listed."""

BUILT_IN = Path(__file__).with_name("policy.yaml")


class Bound(Strict):
    """A metric that must have been measured, and its bounds."""

    name: str = Field(min_length=1, max_length=250)
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Bound:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least must not exceed at_most; received {self.at_least:g} and {self.at_most:g}")
        return self


class Better(Strict):
    """How much better than the champion a version must be, if both were measured on the same validation data."""

    metric: str = Field(default="validation_loss", min_length=1, max_length=250)
    by_at_least: float = Field(default=0.0, ge=0, description="0: must not be worse")
    higher_is_better: bool = False
    where_comparable: bool = Field(
        default=False, description="pass where the champion was measured on other data, or not at all"
    )


class DriftImage(StageImage):
    """An image that candidate and champion generate."""

    at_most: float | None = Field(default=None, ge=0, le=1, description="overrides the rule's limit")

    @property
    def request(self) -> StageImage:
        """The request to infer."""
        return StageImage.model_validate(self.model_dump(exclude={"at_most"}))


class Drift(Strict):
    """Limits of `image_distance.distance` (0 to 1) from the champion's images."""

    at_most: float = Field(ge=0, le=1)
    prompts_apart_by: float | None = Field(
        default=None, ge=0, le=1, description="minimum distance of two images that differ only in the prompt"
    )
    images: list[DriftImage] = Field(min_length=1, max_length=MAX_IMAGES)

    @model_validator(mode="after")
    def _comparable(self) -> Drift:
        if self.prompts_apart_by is not None and not same_except_prompt(self.images):
            raise ValueError(
                "prompts_apart_by needs two images that differ only in the prompt: give them the same seed and size"
            )
        return self


def same_except_prompt(images: Sequence[StageImage]) -> list[tuple[int, int]]:
    """Pairs of indices whose images differ only in the prompt."""
    settings = [image.model_dump(exclude={"prompt", "at_most"}) for image in images]
    pairs = combinations(range(len(images)), 2)
    return [(i, j) for i, j in pairs if settings[i] == settings[j] and images[i].prompt != images[j].prompt]


class AliasPolicy(Strict):
    """Rules that must pass before an alias may point at a version. An omitted field adds no rule."""

    metrics: list[Bound] = Field(default_factory=list, description="metrics that must have been measured, and their bounds")
    better_than_champion: Better | None = Field(default=None, description="in which metric, and by how much")
    min_age_s: float | None = Field(default=None, ge=0, description="minimum time in seconds since the version was registered")
    max_age_s: float | None = Field(default=None, ge=0, description="maximum time in seconds since the version was registered")
    tags: dict[str, str | None] = Field(default_factory=dict, description="required tags and their values; null: any value")
    output_finite: bool = Field(default=False, description="evidence.json must state that the output was finite")
    max_onnx_error: float | None = Field(default=None, ge=0, description="maximum onnx_max_error in evidence.json")
    loads: bool = Field(default=False, description="infer must be able to load the version now")
    drift: Drift | None = Field(default=None, description="distance from the champion's images for fixed prompts and seeds")
    approval: bool = Field(default=False, description="somebody other than the proposer must approve")

    @model_validator(mode="after")
    def _possible(self) -> AliasPolicy:
        if self.min_age_s is not None and self.max_age_s is not None and self.min_age_s > self.max_age_s:
            raise ValueError(f"min_age_s must not exceed max_age_s; received {self.min_age_s:g} and {self.max_age_s:g}")
        return self


class Policy(Strict):
    """Rules by alias, for all models and for single ones."""

    default: dict[str, AliasPolicy] = Field(default_factory=dict)
    models: dict[str, dict[str, AliasPolicy]] = Field(default_factory=dict)

    def of(self, model: str, alias: str) -> AliasPolicy:
        """The most specific rules: the model's for the alias or for `*`, the default's for the alias or for `*`, or none."""
        for rules in (self.models.get(model, {}), self.default):
            for name in (alias, ANY):
                if name in rules:
                    return rules[name]
        return AliasPolicy()


def read_policy(path: Path = BUILT_IN) -> Policy:
    """Reads a policy file.

    Raises:
        PolicyError: it cannot be read, is not YAML, or is invalid; the message lists every problem.
    """
    try:
        return read_yaml(path, Policy, "policy")
    except StrictYamlError as error:
        raise PolicyError(str(error)) from None
