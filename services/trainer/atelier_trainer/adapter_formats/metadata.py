"""What an adapter's file says of itself, in the metadata of its header.

Sources: `ss_*`, written by kohya's sd-scripts; `modelspec.*`, https://github.com/Stability-AI/ModelSpec.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from atelier_contracts.manifests import Style
from pydantic import ValidationError

from atelier_trainer.errors import OptionError

MOST_TRIGGER_WORDS = 3
MAX_WORDS, MAX_TITLE, MAX_TEXT = 50, 200, 5000
ABSENT = {"None", "none", "", "null"}
"""What tools write for a value that they do not have."""


def read_style(metadata: Mapping[str, str]) -> Style:
    """Title, description, author, licence, trigger words and tags, as far as the file has them."""
    phrase = _text(metadata, "modelspec.trigger_phrase")
    return Style(
        title=_text(metadata, "modelspec.title", "ss_output_name", limit=MAX_TITLE),
        description=_text(metadata, "modelspec.description"),
        author=_text(metadata, "modelspec.author", limit=MAX_TITLE),
        licence=_text(metadata, "modelspec.license", limit=MAX_TITLE),
        trigger_words=tuple(split_words(phrase) if phrase else frequent_tags(metadata))[:MAX_WORDS],
        tags=tuple(split_words(_text(metadata, "modelspec.tags")))[:MAX_WORDS],
    )


def make_style(*, trigger_words: str | None = None, **texts: str | None) -> Style:
    """The style that a command's flags describe.

    Args:
        trigger_words: separated by commas.
        texts: other fields of `Style`.

    Raises:
        OptionError: a value is too long.
    """
    values: dict[str, Any] = {"trigger_words": tuple(split_words(trigger_words)), **texts}
    try:
        return Style(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise OptionError(f"--{first['loc'][0]}: {first['msg']}") from error


def split_words(text: str | None) -> list[str]:
    """The parts of a text that commas separate, without empty ones."""
    return [word for part in (text or "").split(",") if (word := part.strip())]


def frequent_tags(metadata: Mapping[str, str]) -> list[str]:
    """Tags that every training image has, which is how a style is usually taught a word; the first few."""
    folders, counts = parse_json(metadata.get("ss_tag_frequency", "{}")), Counter[str]()
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(count, int) and count > 0:
                counts[str(tag).strip()] += count
    if not counts:
        return []
    most = max(counts.values())
    common = [tag for tag, count in counts.items() if count == most and tag]
    return common if len(common) <= MOST_TRIGGER_WORDS else []


def describe(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    """Further facts for a person to read: what they are, and their values."""
    rows = {
        "architecture": ("modelspec.architecture",),
        "trained on": ("ss_sd_model_name", "ss_base_model_version"),
        "network module": ("ss_network_module",),
        "network dimension": ("ss_network_dim",),
        "network alpha": ("ss_network_alpha",),
        "resolution": ("modelspec.resolution", "ss_resolution"),
        "usage": ("modelspec.usage_hint",),
        "date": ("modelspec.date",),
    }
    found = [(name, _text(metadata, *keys, limit=200)) for name, keys in rows.items()]
    if thumbnail := metadata.get("modelspec.thumbnail"):
        found.append(("preview", f"{len(thumbnail) * 3 // 4 // 1024} KiB"))
    return [(name, value) for name, value in found if value]


def _text(metadata: Mapping[str, str], *keys: str, limit: int = MAX_TEXT) -> str | None:
    values = (metadata.get(key, "").strip() for key in keys)
    return next((value[:limit] for value in values if value not in ABSENT), None)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text from anywhere; None where it is none, or nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def autov2(sha256: str) -> str:
    """The short form of a file's hash that Civitai shows."""
    return sha256[:10].upper()
