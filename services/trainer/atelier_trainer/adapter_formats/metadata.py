"""What an adapter's file says of itself, in the metadata of its header.

Sources: `ss_*`, written by kohya's sd-scripts; `modelspec.*`, https://github.com/Stability-AI/ModelSpec; `atelier.*`, written
by `export`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from atelier_contracts.styles import MAX_WORDS, Recommended, Style
from pydantic import ValidationError

from atelier_trainer.errors import OptionError

MOST_TRIGGER_WORDS = 3
MAX_TITLE, MAX_TEXT, MAX_SHOWN = 200, 5000, 60
THUMBNAIL_KEY = "modelspec.thumbnail"
RECOMMENDED_KEY = "atelier.recommended"
"""JSON of `styles.Recommended`."""

RECOMMENDED_FLAGS = {
    "scale": "recommended_scale",
    "steps": "recommended_steps",
    "scheduler": "recommended_scheduler",
    "guidance_scale": "recommended_guidance",
}
"""Flag of each field of `styles.Recommended`."""

ABSENT = {"None", "none", "", "null"}
"""What tools write for a value that they do not have."""


def read_style(metadata: Mapping[str, str]) -> Style:
    """Title, description, author, licence, trigger words, tags and recommended values, as far as the file has them."""
    phrase = _text(metadata, "modelspec.trigger_phrase")
    return Style(
        title=_text(metadata, "modelspec.title", "ss_output_name", limit=MAX_TITLE),
        description=_text(metadata, "modelspec.description"),
        author=_text(metadata, "modelspec.author", limit=MAX_TITLE),
        licence=_text(metadata, "modelspec.license", limit=MAX_TITLE),
        trigger_words=tuple(split_words(phrase) if phrase else frequent_tags(metadata))[:MAX_WORDS],
        tags=tuple(split_words(_text(metadata, "modelspec.tags")))[:MAX_WORDS],
        recommended=read_recommended(metadata),
    )


def read_recommended(metadata: Mapping[str, str]) -> Recommended:
    """What `export` wrote; neither kohya nor ModelSpec has a key for such values. Empty where it makes no sense."""
    try:
        return Recommended.model_validate_json(metadata.get(RECOMMENDED_KEY, "{}"))
    except ValidationError:
        return Recommended()


def make_style(**flags: Any) -> Style:
    """The style that a command's flags describe.

    Args:
        flags: fields of `Style`; `trigger_words` and `tags` separated by commas, the fields of `recommended` as
            `recommended_scale`, `recommended_steps`, `recommended_scheduler` and `recommended_guidance`.

    Raises:
        OptionError: names every value that is too long or out of range.
    """
    words = {name: tuple(split_words(flags.pop(name))) for name in ("trigger_words", "tags") if name in flags}
    recommended = {field: value for field, flag in RECOMMENDED_FLAGS.items() if (value := flags.pop(flag, None)) is not None}
    try:
        return Style(**flags, **words, recommended=recommended)  # validated there
    except ValidationError as error:
        raise OptionError("; ".join(map(_problem, error.errors()))) from error


def _problem(error: Any) -> str:
    """One value that breaks a rule of a field."""
    field, received = str(error["loc"][-1]), repr(error["input"])
    flag = RECOMMENDED_FLAGS.get(field, field) if error["loc"][0] == "recommended" else str(error["loc"][0])
    return f"--{flag}: {error['msg']}; received {received if len(received) <= MAX_SHOWN else received[:MAX_SHOWN] + '…'}"


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
