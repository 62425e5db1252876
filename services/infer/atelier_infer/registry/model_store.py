"""What this service needs of a model registry; `mlflow_store.py` is the real one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class View:
    """The served model as the registry shows it now.

    Attributes:
        generation: changes when the model was deleted and made anew, because its version numbers then start again; empty when
            the model does not exist.
        aliases: alias to version number.
    """

    generation: str
    aliases: dict[str, int]


@dataclass(frozen=True)
class Entry:
    """One version tagged as an adapter."""

    number: int
    created_at: datetime


@dataclass(frozen=True)
class BundleVersion:
    """A registered version that is tagged as a bundle."""

    model: str
    number: int


class ModelStore(Protocol):
    """The versions of the served model, and bundles by digest. Every method raises TrackingError when it cannot answer."""

    def look(self) -> View:
        """The aliases. Cheap: called every alias_poll_s."""
        ...

    def versions(self) -> list[Entry]:
        """The versions tagged as adapters, by rising number."""
        ...

    def validation_image(self, version: int) -> bytes | None:
        """The newest image that the version's training logged of its first validation prompt, PNG; none if it logged none.

        Raises:
            UnknownVersionError: no such version.
            NotAnAdapterError: it is tagged as something else.
        """
        ...

    def promoted_digest(self, version: int) -> str | None:
        """The digest that registry-api decided on when it let an alias point at the version; none where it never did.

        Raises:
            UnknownVersionError: no such version.
            NotAnAdapterError: it is tagged as something else.
            AdapterError: the tag holds no digest.
        """
        ...

    def adapter_manifest(self, version: int) -> bytes:
        """The text of adapter.json.

        Raises:
            UnknownVersionError: no such version.
            NotAnAdapterError: it is tagged as something else.
            AdapterError: it has no such file.
        """
        ...

    def fetch_adapter(self, version: int, into: Path) -> None:
        """Copies the version's adapter files into an existing, empty folder, whatever folders they lie in."""
        ...

    def bundles(self, digest: str) -> list[BundleVersion]:
        """The versions, of any model, that say that they hold a bundle, the oldest first. What they hold is to be checked.

        Raises:
            BundleMissingError: no version is tagged with that digest.
        """
        ...

    def fetch_bundle(self, version: BundleVersion, into: Path) -> None:
        """Copies the whole artifact tree of a bundle into an existing, empty folder."""
        ...
