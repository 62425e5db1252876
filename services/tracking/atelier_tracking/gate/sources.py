"""Sources of versions: their canonical form, and what older versions with other forms need."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

SOURCE = (
    r"(?:models:/m-[0-9a-f]{32}"
    r"|runs:/[0-9a-f]{32}(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)+"
    r"|mlflow-artifacts:/[A-Za-z0-9_-][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)+)"
)
"""Equal to the pattern of atelier_contracts, which is not in this image."""

PROMPT_SOURCES = ("dummy-source", "prompt-template")
"""Sources that MLflow's clients set for prompts, which have no files."""

PATTERN = rf"\A(?:{SOURCE}|{'|'.join(PROMPT_SOURCES)})\Z"
"""For MLflow, which uses re.search. Source: `_create_model_version` in mlflow/server/handlers.py."""

ID = re.compile(r"[0-9a-f]{32}")

ROWS = "SELECT source, storage_location, run_id FROM model_versions WHERE current_stage IS DISTINCT FROM 'Deleted_Internal'"


def normalised(text: str) -> str:
    """The text as the most lenient parser reads it: percent-decoded repeatedly, without control characters."""
    for _ in range(10):
        decoded = unquote(text)
        if decoded == text:
            break
        text = decoded
    return re.sub(r"[\x00-\x1f\x7f]", "", text)


def folder(text: str, bucket: str) -> str:
    """Path below the artifact root; empty for other locations.

    Args:
        text: a normalised URI.
        bucket: name of the artifact bucket.
    """
    match = re.match(
        r"(?:mlflow-artifacts:(?://[^/]*)?|https?://.*?/mlflow-artifacts/artifacts|s3://([^/]+))/+(.*)$", text, re.I
    )
    if match is None or match[1] not in (None, bucket):
        return ""
    path = re.split(r"[?#;]", match[2])[0]
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def noncanonical_sources(rows: Iterable[tuple[str | None, ...]], bucket: str) -> dict[str, list[str]]:
    """Files of versions whose source is not canonical or has no id, so that the gate's lookups do not find them.

    Args:
        rows: (source, storage location, run id) of each version.
        bucket: name of the artifact bucket.

    Returns:
        `ids`: 32 hexadecimal digits of runs and models, all of whose files are needed; `folders`: paths below the artifact
        root.
    """
    ids: set[str] = set()
    folders: set[str] = set()
    for source, location, run in rows:
        source = source or ""
        if source in PROMPT_SOURCES or (re.fullmatch(SOURCE, source) and ID.search(source)):
            continue
        for text in (normalised(source), normalised(location or "")):
            ids.update(ID.findall(text.lower()))
            folders.add(folder(text, bucket))
        ids.update(ID.findall((run or "").lower()))
    return {"ids": sorted(ids), "folders": sorted(folders - {""})}


def write_noncanonical_sources(database_url: str, bucket: str, file: Path) -> None:
    """Writes `noncanonical_sources` of all versions to a file that the gate reads.

    Args:
        database_url: URL for libpq.
        bucket: name of the artifact bucket.
        file: JSON file, replaced atomically.
    """
    import psycopg2

    connection = psycopg2.connect(database_url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(ROWS)
            sources = noncanonical_sources(cursor, bucket)
    finally:
        connection.close()
    partial = file.with_suffix(".new")
    partial.write_text(json.dumps(sources))
    partial.replace(file)
