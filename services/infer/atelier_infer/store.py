"""What this service needs of a model registry; `mlflow_store.py` is the real one."""

from __future__ import annotations

from dataclasses import dataclass
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


class Store(Protocol):
    """The versions of the served model, and bundles by digest. Every method raises TrackingError when it cannot answer."""

    def look(self) -> View:
        """The aliases. Cheap: called every alias_poll_s."""
        ...

    def versions(self) -> list[int]:
        """Numbers of the versions tagged as adapters, rising."""
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

    def fetch_bundle(self, digest: str, into: Path) -> None:
        """Copies the whole artifact tree of a bundle into an existing, empty folder.

        Raises:
            BundleMissingError: no version is tagged with that digest.
        """
        ...
