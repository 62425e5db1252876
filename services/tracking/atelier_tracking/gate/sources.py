"""A version's source: its canonical spellings, and the versions from before they were asked for."""

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
"""The same as in atelier_contracts, which this image does not have."""

PROMPTS = ("dummy-source", "prompt-template")
"""What MLflow's clients write where a version is a prompt and has no files."""

PATTERN = rf"\A(?:{SOURCE}|{'|'.join(PROMPTS)})\Z"
"""For MLflow, which searches for it. Source: `_create_model_version` in mlflow/server/handlers.py."""

ID = re.compile(r"[0-9a-f]{32}")

ROWS = "SELECT source, storage_location, run_id FROM model_versions WHERE current_stage IS DISTINCT FROM 'Deleted_Internal'"


def normalised(text: str) -> str:
    """The text as the most generous reader takes it: percent-decoded until nothing changes, without control characters."""
    for _ in range(10):
        decoded = unquote(text)
        if decoded == text:
            break
        text = decoded
    return re.sub(r"[\x00-\x1f\x7f]", "", text)


def folder(text: str, bucket: str) -> str:
    """Path below the artifact root; empty where the address is of another place or of none.

    Args:
        text: a normalised address.
        bucket: the artifacts' own.
    """
    match = re.match(
        r"(?:mlflow-artifacts:(?://[^/]*)?|https?://.*?/mlflow-artifacts/artifacts|s3://([^/]+))/+(.*)$", text, re.I
    )
    if match is None or match[1] not in (None, bucket):
        return ""
    path = re.split(r"[?#;]", match[2])[0]
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def odd_sources(rows: Iterable[tuple[str | None, ...]], bucket: str) -> dict[str, list[str]]:
    """What versions need whose source is not canonical, or is but holds no id, so that the gate's searches do not find it.

    Args:
        rows: source, storage location and run id of each version.
        bucket: the artifacts' own.

    Returns:
        `ids`: 32 hexadecimal digits of runs and models, all of whose files count; `folders`: paths below the artifact root.
    """
    ids: set[str] = set()
    folders: set[str] = set()
    for source, location, run in rows:
        given = source or ""
        if given in PROMPTS or (re.fullmatch(SOURCE, given) and ID.search(given)):
            continue
        for text in (normalised(given), normalised(location or "")):
            ids.update(ID.findall(text.lower()))
            folders.add(folder(text, bucket))
        ids.update(ID.findall((run or "").lower()))
    return {"ids": sorted(ids), "folders": sorted(folders - {""})}


def write_odd_sources(libpq: str, bucket: str, file: Path) -> None:
    """Reads all versions and writes what `odd_sources` finds, before MLflow answers anybody.

    Args:
        libpq: address of the database.
        bucket: the artifacts' own.
        file: that the gate reads.
    """
    import psycopg2

    connection = psycopg2.connect(libpq)
    try:
        with connection.cursor() as cursor:
            cursor.execute(ROWS)
            found = odd_sources(cursor, bucket)
    finally:
        connection.close()
    aside = file.with_suffix(".new")
    aside.write_text(json.dumps(found))
    aside.replace(file)
