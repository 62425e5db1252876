"""Where the chain's newest entry is stored outside the database of decisions."""

from __future__ import annotations

import re
from typing import Protocol

from atelier_registry.models.model_registry import ModelRegistry
from atelier_registry.storage.hash_chain import BrokenChainError

Anchor = tuple[int, str]
"""Number and hash of an entry."""


class AnchorStore(Protocol):
    """Stores the newest entry.

    Attributes:
        name: for messages.
    """

    name: str

    def read(self) -> Anchor | None:
        """The newest entry that was stored; None before the first.

        Raises:
            BrokenChainError: what is stored was not written by this service.
            UnavailableError: the store does not answer.
        """

    def write(self, anchor: Anchor) -> None:
        """Stores a newer entry.

        Raises:
            UnavailableError: the store does not answer.
        """


class MlflowAnchorStore:
    """A tag `ENTRY:HASH` of a registered model in MLflow."""

    name = "MLflow"

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def read(self) -> Anchor | None:
        return parse_anchor(self._registry.chain_head())

    def write(self, anchor: Anchor) -> None:
        self._registry.set_chain_head(f"{anchor[0]}:{anchor[1]}")


def parse_anchor(text: str | None) -> Anchor | None:
    """Raises `BrokenChainError` for text that is not `ENTRY:HASH`."""
    if text is None:
        return None
    if (match := re.fullmatch(r"([1-9][0-9]{0,18}):([0-9a-f]{64})", text)) is None:
        raise BrokenChainError(f"the anchor must be ENTRY:HASH; received {text[:100]!r}")
    return int(match[1]), match[2]
