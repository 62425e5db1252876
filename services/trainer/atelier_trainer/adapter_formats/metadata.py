"""What an adapter's file says of itself, in the metadata of its header.

Sources: `ss_*`, written by kohya's sd-scripts; `modelspec.*`, https://github.com/Stability-AI/ModelSpec.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from atelier_contracts.manifests import Style

MOST_TRIGGER_WORDS = 3
MAX_TEXT = 5000
USUAL = {"None", "none", "", "null"}


def read_style(metadata: Mapping[str, str]) -> Style:
    """Title, description, author, licence, trigger words and tags, as far as the file has them."""
    phrase = _text(metadata, "modelspec.trigger_phrase")
    return Style(
        title=_text(metadata, "modelspec.title", "ss_output_name", limit=200),
        description=_text(metadata, "modelspec.description"),
        author=_text(metadata, "modelspec.author", limit=200),
        licence=_text(metadata, "modelspec.license", limit=200),
        trigger_words=tuple(_words(phrase)) if phrase else tuple(frequent_tags(metadata)),
        tags=tuple(_words(_text(metadata, "modelspec.tags") or ""))[:50],
    )


def frequent_tags(metadata: Mapping[str, str]) -> list[str]:
    """Tags that every training image has, which is how a style is usually taught a word; the first few."""
    try:
        folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
        counts: Counter[str] = Counter()
        for tags in folders.values():
            counts.update({str(tag).strip(): int(count) for tag, count in tags.items()})
    except (ValueError, AttributeError, TypeError):
        return []
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
    return next((value[:limit] for value in values if value not in USUAL), None)


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip())]
