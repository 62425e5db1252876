"""What must hold before an alias may point at a version: pure functions, each with a reason in words."""

from __future__ import annotations

import re

from atelier_contracts.names import CHAMPION, KIND_ADAPTER, TAG_KIND

from atelier_registry.errors import InvalidArgumentError, NotPromotableError
from atelier_registry.registry import READY, Version


def check_alias(alias: str) -> None:
    """Refuses the names that MLflow keeps for itself, before anything is written.

    Raises:
        InvalidArgumentError: the alias is `latest`, or reads like a version such as `v7`.
    """
    if alias == "latest" or re.fullmatch(r"v\d+", alias):
        raise InvalidArgumentError(f"`latest` and `v` with a number are reserved by MLflow; received {alias!r}: choose another")


def check_version(version: Version, alias: str) -> None:
    """Refuses a version that the alias must not point at.

    Raises:
        NotPromotableError: its files are not complete, or `champion` was asked for and it is not an adapter.
    """
    name = f"version {version.number} of {version.model}"
    if version.status != READY:
        raise NotPromotableError(
            f"{name} has the status {version.status}; only a {READY} one can be pointed at: wait until it is"
        )
    if alias == CHAMPION and version.kind != KIND_ADAPTER:
        found = f"has the tag {TAG_KIND}={version.kind}" if version.kind else f"has no tag {TAG_KIND}"
        raise NotPromotableError(
            f"only versions with the tag {TAG_KIND}={KIND_ADAPTER} can become {CHAMPION}; {name} {found}: "
            "choose a version that the trainer registered as an adapter, or another alias"
        )
