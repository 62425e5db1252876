"""What the aliases were when tracking last answered, on disk: a process that starts while tracking is down serves on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from atelier_contracts.identifiers import AliasName, Digest, ModelName, VersionNumber
from pydantic import BaseModel, ConfigDict, ValidationError

log = logging.getLogger(__name__)

FILE = "last-known.json"


class Promoted(BaseModel):
    """What an alias drew with."""

    model_config = ConfigDict(extra="forbid")

    version: VersionNumber
    adapter_digest: Digest


class LastKnownAliases(BaseModel):
    """The served model as it was; the digests lead to files in the cache, which are checked before they are used."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    model: ModelName
    generation: str
    aliases: dict[AliasName, Promoted]


def read(folder: Path, model: str) -> LastKnownAliases | None:
    """What was written last; None where nothing was, where it cannot be read, and where another model was served."""
    try:
        found = LastKnownAliases.model_validate_json((folder / FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("the last known aliases cannot be read", extra={"fields": {"reason": str(error)[:300]}})
        return None
    return found if found.model == model else None


def write(folder: Path, found: LastKnownAliases) -> None:
    """Whole or not at all. A cache that cannot be written is reported and costs nothing but the next cold start."""
    partial = folder / f"{FILE}.partial"
    try:
        partial.write_text(found.model_dump_json())
        partial.replace(folder / FILE)
    except OSError as error:
        log.warning("the aliases cannot be kept for the next start", extra={"fields": {"reason": str(error)}})
