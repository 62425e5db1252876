"""Aliases and style when the tracking server last answered, on disk, for a process that starts while it is down."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from atelier_contracts.identifiers import AliasName, Digest, ModelName, VersionNumber
from atelier_contracts.styles import RecordedEdits
from pydantic import BaseModel, ConfigDict, ValidationError

log = logging.getLogger(__name__)

FILE = "last-known.json"


class PromotedVersion(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: VersionNumber
    adapter_digest: Digest


class LastKnownAliases(BaseModel):
    """The digests lead to files in the cache, which are verified before use."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    model: ModelName
    generation: str
    aliases: dict[AliasName, PromotedVersion]
    style: RecordedEdits = RecordedEdits(decision=0)


def read(folder: Path, model: str) -> LastKnownAliases | None:
    """None if there is no file, it cannot be read, or it is about another model."""
    try:
        stored = LastKnownAliases.model_validate_json((folder / FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("cannot read the last known aliases", extra={"fields": {"reason": str(error)[:300]}})
        return None
    return stored if stored.model == model else None


def write(folder: Path, aliases: LastKnownAliases) -> None:
    """Atomic. A failure is only logged: it matters to nothing but the next start while tracking is down."""
    partial = folder / f"{FILE}.partial"
    try:
        partial.write_text(aliases.model_dump_json())
        partial.replace(folder / FILE)
    except OSError as error:
        log.warning("cannot write the last known aliases", extra={"fields": {"reason": str(error)}})
