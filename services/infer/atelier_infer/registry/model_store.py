"""The interface that infer needs of a model registry; `mlflow_store.py` implements it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class RegisteredModel:
    """The served model at one moment.

    Attributes:
        generation: changes when the model was deleted and created again, because its version numbers then start over; empty
            if the model does not exist.
        aliases: alias to version number.
        style_tag: the edits of its style, as registry-api wrote them; None without any.
    """

    generation: str
    aliases: dict[str, int]
    style_tag: str | None = None


@dataclass(frozen=True)
class AdapterVersion:
    number: int
    created_at: datetime


@dataclass(frozen=True)
class BundleVersion:
    model: str
    number: int


class ModelStore(Protocol):
    """Versions of the served model, and bundles by digest. Every method raises TrackingError if the server does not answer.

    Methods that take a version number raise UnknownVersionError if it does not exist, and NotAnAdapterError if it is tagged
    as something else.
    """

    def registered_model(self) -> RegisteredModel:
        """Called every alias_poll_s, so it must be cheap."""
        ...

    def versions(self) -> list[AdapterVersion]:
        """Versions tagged as adapters, in ascending order."""
        ...

    def validation_image(self, version: int) -> bytes | None:
        """The latest PNG that the version's training logged for its first validation prompt; None if it logged none."""
        ...

    def promoted_digest(self, version: int) -> str | None:
        """The digest that registry-api recorded when it promoted the version; None if it never did.

        Raises:
            AdapterError: the tag is not a digest.
        """
        ...

    def adapter_manifest(self, version: int) -> bytes:
        """The content of adapter.json.

        Raises:
            AdapterError: there is no such file.
        """
        ...

    def fetch_weights(self, version: int, into: Path) -> Path | None:
        """Downloads the adapter's weights into an existing, empty folder and returns the file; None if there is none."""
        ...

    def fetch_preview(self, version: int, into: Path) -> Path | None:
        """Downloads the adapter's preview into an existing, empty folder and returns the file; None if there is none."""
        ...

    def bundles(self, digest: str) -> list[BundleVersion]:
        """Versions of any model that are tagged with the digest, oldest first. Their files must still be verified.

        Raises:
            BundleMissingError: there is none.
        """
        ...

    def fetch_bundle(self, version: BundleVersion, into: Path) -> None:
        """Downloads all artifacts of a bundle into an existing, empty folder, with whatever folders they lie in."""
        ...
