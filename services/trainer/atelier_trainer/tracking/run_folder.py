"""The folder of one run: which MLflow run it belongs to, and which process works in it."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atelier_trainer.errors import OptionError

RUN_FILE, LOCK_FILE, JOURNAL_FOLDER, ARCHIVE_FOLDER = "run.json", "run.lock", "journal", "earlier"
RECIPE_FILE = "recipe.yaml"  # an artifact of the MLflow run
LOCK_POLL_S = 0.2


@dataclass(frozen=True)
class RunMetadata:
    """run.json: the MLflow run of a folder, and the settings that it started with."""

    run_id: str
    tracking_uri: str
    experiment: str
    settings: dict[str, Any]

    def write(self, folder: Path) -> None:
        write_json(folder / RUN_FILE, asdict(self))


def read_run_metadata(folder: Path) -> RunMetadata | None:
    """The folder's run.json; None where there is none.

    Raises:
        OptionError: the file cannot be read.
    """
    file = folder / RUN_FILE
    if not file.exists():
        return None
    try:
        return RunMetadata(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise OptionError(f"{str(file)!r} is not the metadata of a run: {error}") from error


def write_json(file: Path, value: Any) -> None:
    """Written atomically."""
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(value, indent=2))
    partial.replace(file)


@contextmanager
def run_lock(folder: Path, timeout_s: float = 0.0) -> Iterator[None]:
    """Reserves the folder for this process; waits up to `timeout_s` for another one to release it.

    Raises:
        OptionError: another process works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    with (folder / LOCK_FILE).open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise OptionError(
                        f"another process works in {str(folder)!r}; wait for it or choose another --output_dir"
                    ) from error
                time.sleep(LOCK_POLL_S)
        yield


def archive_run(folder: Path) -> Path | None:
    """Moves an earlier run's files to `earlier/<run id>`; a new run starts in an empty folder. None where there is no run."""
    metadata = read_run_metadata(folder)
    if metadata is None:
        return None
    archive = folder / ARCHIVE_FOLDER / metadata.run_id
    archive.mkdir(parents=True, exist_ok=True)
    for path in [path for path in folder.iterdir() if path.name not in (ARCHIVE_FOLDER, LOCK_FILE)]:
        path.rename(archive / path.name)
    return archive
