"""What this service asks of a model registry, and the facts it gets back. MLflow's classes stay behind `mlflow_registry.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from atelier_contracts.names import ADAPTER_FILE, EVIDENCE_FILE, TAG_KIND

T = TypeVar("T")

FILES = (ADAPTER_FILE, EVIDENCE_FILE)
"""What is read of a version beside MLflow's own facts."""

READY = "READY"
"""MLflow's status of a version whose files are complete."""


@dataclass(frozen=True)
class Version:
    """One version of a model. Which aliases point at it is the model's knowledge, not the version's."""

    model: str
    number: int
    created_at: datetime
    status: str
    description: str = ""
    run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str | None:
        """`adapter`, `bundle`, or None for a version that nothing of Atelier registered."""
        return self.tags.get(TAG_KIND)


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter's files as they are now.

    Attributes:
        manifest: text of adapter.json; None where there is none.
        evidence: text of evidence.json; None where there is none.
        weights_sha256: of the weights' bytes; None where there are none.
    """

    manifest: str | None
    evidence: str | None
    weights_sha256: str | None


@dataclass(frozen=True)
class Model:
    """A registered model."""

    name: str
    description: str = ""
    aliases: Mapping[str, int] = field(default_factory=dict)
    latest: Version | None = None

    def aliases_of(self, number: int) -> list[str]:
        """Aliases that point at a version, sorted."""
        return sorted(alias for alias, version in self.aliases.items() if version == number)


@dataclass(frozen=True)
class Run:
    """The run that made a version."""

    id: str
    name: str
    status: str
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """A metric at a step."""

    step: int
    value: float


@dataclass(frozen=True)
class Image:
    """An image that a run logged."""

    path: str
    key: str
    step: int


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list; `next_token` fetches the next part, None after the last."""

    items: Sequence[T]
    next_token: str | None = None


class RegistryReader(Protocol):
    """A registry of models, to look at.

    What does not exist is answered with None.

    Raises:
        TrackingUnavailableError: from every method, where no usable answer came.
        InvalidArgumentError: from every method, where the registry refuses a name, an alias or a page token as such.
    """

    def ping(self) -> None:
        """Returns when the registry answers a question that needs its database and our login."""

    def models(self, limit: int, page_token: str | None) -> Page[Model]:
        """Models by name, `limit` at most."""

    def model(self, name: str) -> Model | None:
        """One model with its aliases."""

    def versions(self, name: str, limit: int, page_token: str | None) -> Page[Version]:
        """Versions of a model, newest first, `limit` at most; an unknown model has none."""

    def version(self, name: str, number: int) -> Version | None:
        """One version."""

    def run(self, run_id: str) -> Run | None:
        """One run with its parameters and the last value of each metric."""

    def runs(self, run_ids: Sequence[str]) -> Mapping[str, Run]:
        """Several runs by id in one question; those that do not exist are missing."""

    def curve(self, run_id: str, metric: str) -> Sequence[Point]:
        """The course of one metric of a run, thinned out by the registry where it is long; empty for an unknown one."""

    def images(self, run_id: str) -> Sequence[Image]:
        """The images that a run logged, by key and step."""

    def image(self, run_id: str, path: str) -> bytes | None:
        """A PNG that `images` told of; None where it is gone."""

    def files(self, name: str, number: int, wanted: Collection[str] = FILES) -> dict[str, str]:
        """The text of those files that the version holds beside its weights.

        Raises:
            UnreadableFileError: they are kept where only other credentials reach, or are larger than a manifest can be.
        """


class ModelRegistry(RegistryReader, Protocol):
    """A registry of models. Where what is to be changed does not exist, the answer is False."""

    def adapter_files(self, name: str, number: int) -> AdapterFiles:
        """What the version's files are now: every byte of the weights is read for it.

        Raises:
            UnreadableFileError: they are kept where only other credentials reach, or are larger than an adapter can be.
        """

    def set_alias(self, name: str, alias: str, number: int) -> bool:
        """Points the alias at the version. False where the model or the version does not exist, and nothing was changed."""

    def set_tag(self, name: str, number: int, key: str, value: str) -> bool:
        """Tags a version. False where the model or the version does not exist."""

    def chain_head(self) -> str | None:
        """The tag that `set_chain_head` left; None before the first."""

    def set_chain_head(self, value: str) -> None:
        """Keeps a value where the database of decisions does not reach: a tag of the registered model CHAIN_MODEL."""
