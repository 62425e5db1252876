"""The interface to a model registry, and its values. MLflow's own classes do not leave `mlflow_registry.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from atelier_contracts.names import ADAPTER_FILE, EVIDENCE_FILE, TAG_KIND

T = TypeVar("T")

FILES = (ADAPTER_FILE, EVIDENCE_FILE)
"""Files of a version that are shown with it."""

READY = "READY"
"""MLflow's status of a version whose files are complete."""


@dataclass(frozen=True)
class Version:
    """One version of a model. Aliases belong to the model, not to the version."""

    model: str
    number: int
    created_at: datetime
    status: str
    description: str = ""
    run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str | None:
        """`adapter`, `bundle`, or None for a version that Atelier did not register."""
        return self.tags.get(TAG_KIND)


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter's files as stored now.

    Attributes:
        manifest: text of adapter.json; None where there is none.
        evidence: text of evidence.json; None where there is none.
        weights_sha256: of the weights' bytes; None where there are none.
        preview_sha256: of the preview's bytes; None where there are none.
    """

    manifest: str | None
    evidence: str | None
    weights_sha256: str | None
    preview_sha256: str | None = None


@dataclass(frozen=True)
class Model:
    name: str
    description: str = ""
    aliases: Mapping[str, int] = field(default_factory=dict)
    latest: Version | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def aliases_of(self, number: int) -> list[str]:
        """Sorted names of the aliases that point at a version."""
        return sorted(alias for alias, version in self.aliases.items() if version == number)


@dataclass(frozen=True)
class Run:
    """The MLflow run that produced a version."""

    id: str
    name: str
    status: str
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    step: int
    value: float


@dataclass(frozen=True)
class Image:
    path: str
    key: str
    step: int


@dataclass(frozen=True)
class Page(Generic[T]):
    """Part of a list; `next_token` fetches the next part, None after the last."""

    items: Sequence[T]
    next_token: str | None = None


class RegistryReader(Protocol):
    """Reads a registry of models. Methods return None for what does not exist.

    Raises:
        TrackingUnavailableError: from every method; the registry gave no valid answer.
        InvalidArgumentError: from every method; the registry does not accept a name, an alias or a page token.
    """

    def ping(self) -> None:
        """Returns when the registry answers a request that needs its database and this service's login."""

    def models(self, limit: int, page_token: str | None) -> Page[Model]:
        """At most `limit` models, by name."""

    def model(self, name: str) -> Model | None:
        """A model with its aliases."""

    def versions(self, name: str, limit: int, page_token: str | None) -> Page[Version]:
        """At most `limit` versions of a model, newest first; none for an unknown model."""

    def version(self, name: str, number: int) -> Version | None: ...

    def run(self, run_id: str) -> Run | None:
        """A run with its parameters and the last value of each metric."""

    def runs(self, run_ids: Sequence[str]) -> Mapping[str, Run]:
        """Several runs by id, in one request; those that do not exist are missing."""

    def curve(self, run_id: str, metric: str) -> Sequence[Point]:
        """Values of a metric over the steps, sampled by the registry where there are many; empty for an unknown metric."""

    def images(self, run_id: str) -> Sequence[Image]:
        """Images that a run logged, by key and step."""

    def image(self, run_id: str, path: str) -> bytes | None:
        """The PNG of a path that `images` listed; None where it no longer exists."""

    def preview(self, name: str, number: int) -> bytes | None:
        """The bytes of the version's preview as they are stored; None without one.

        Raises:
            UnreadableFileError: they are stored where this service does not read, or are larger than a preview can be.
        """

    def files(self, name: str, number: int, wanted: Collection[str] = FILES) -> dict[str, str]:
        """Texts of the requested files that the version has.

        Raises:
            UnreadableFileError: they are stored where this service does not read, or are larger than a manifest can be.
        """


class ModelRegistry(RegistryReader, Protocol):
    """Reads and changes a registry of models."""

    def adapter_files(self, name: str, number: int) -> AdapterFiles:
        """The version's files as stored now; reads every byte of the weights.

        Raises:
            UnreadableFileError: they are stored where this service does not read, or are larger than an adapter can be.
        """

    def set_alias(self, name: str, alias: str, number: int) -> bool:
        """Points the alias at the version. False where the model or the version does not exist."""

    def set_tag(self, name: str, number: int, key: str, value: str) -> bool:
        """Tags a version. False where the model or the version does not exist."""

    def set_model_tag(self, name: str, key: str, value: str) -> bool:
        """Tags a model. False where it does not exist."""

    def chain_head(self) -> str | None:
        """The value that `set_chain_head` stored; None before the first."""

    def set_chain_head(self, value: str) -> None:
        """Stores a value outside the database of decisions: as a tag of the registered model CHAIN_MODEL."""
