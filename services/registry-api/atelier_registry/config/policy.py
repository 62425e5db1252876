"""The policy: which rules hold for which alias of which model. Read once, at the start, with every problem told."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from atelier_contracts.stage import MAX_IMAGES, StageImage
from pydantic import Field, model_validator

from atelier_registry.config.strict_yaml import Strict, StrictYamlError, read_yaml
from atelier_registry.errors import PolicyError

ANY = "*"
"""In the place of an alias: every alias that is not named beside it."""

BUILT_IN = Path(__file__).with_name("policy.yaml")


class Bound(Strict):
    """A metric that must be there, and within its bounds where these are given."""

    name: str = Field(min_length=1, max_length=250)
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Bound:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least must not exceed at_most; received {self.at_least:g} and {self.at_most:g}")
        return self


class Better(Strict):
    """How much better than the champion. Compared only where both were measured on the same validation data."""

    metric: str = Field(default="validation_loss", min_length=1, max_length=250)
    by_at_least: float = Field(default=0.0, ge=0, description="0: not worse")
    higher_is_better: bool = False
    where_comparable: bool = Field(
        default=False, description="a champion that was measured on other data, or not at all, stands in nobody's way"
    )


class DriftImage(StageImage):
    """An image that candidate and champion draw."""

    at_most: float | None = Field(default=None, ge=0, le=1, description="instead of the rule's own")

    @property
    def request(self) -> StageImage:
        """What infer is asked for."""
        return StageImage.model_validate(self.model_dump(exclude={"at_most"}))


class Drift(Strict):
    """How far the images may be from the champion's: `image_distance.distance`, 0 to 1, of each image."""

    at_most: float = Field(ge=0, le=1)
    prompts_apart_by: float | None = Field(
        default=None, ge=0, le=1, description="two images that differ in the prompt alone must be this far apart, at least"
    )
    images: list[DriftImage] = Field(min_length=1, max_length=MAX_IMAGES)

    @model_validator(mode="after")
    def _comparable(self) -> Drift:
        if self.prompts_apart_by is not None and not same_but_the_prompt(self.images):
            raise ValueError("prompts_apart_by needs two images that differ in the prompt alone: give them one seed and size")
        return self


def same_but_the_prompt(images: Sequence[StageImage]) -> list[tuple[int, int]]:
    """Pairs of places in a list whose images differ in the prompt alone."""
    rest = [image.model_dump(exclude={"prompt", "at_most"}) for image in images]
    pairs = combinations(range(len(images)), 2)
    return [(i, j) for i, j in pairs if rest[i] == rest[j] and images[i].prompt != images[j].prompt]


class AliasPolicy(Strict):
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


class Policy(Strict):
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
        return read_yaml(path, Policy, "policy")
    except StrictYamlError as error:
        raise PolicyError(str(error)) from None
