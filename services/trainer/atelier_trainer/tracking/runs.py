"""One run and its folder: opened anew or gone on with, its records carried to MLflow, its end told."""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from mlflow.entities import Metric, Param, RunTag
from PIL import Image

from atelier_trainer.errors import OptionError
from atelier_trainer.tracking.journal import Journal, Record
from atelier_trainer.tracking.mlflow_runs import Tracking, translated
from atelier_trainer.tracking.uploader import Row, Uploader

RUN_FILE, LOCK_FILE, JOURNAL_FOLDER = "run.json", "run.lock", "journal"
PARENT_TAG = "mlflow.parentRunId"
MOST_PARAMS = 100  # MLflow takes no more in one request


class Sink(Protocol):
    """Where curves and images go."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one optimizer step."""

    def image(self, image: Image.Image, key: str, step: int) -> None:
        """An image of the validation prompt."""

    def close(self) -> object:
        """Nothing comes after."""


@dataclass(frozen=True)
class RunMetadata:
    """run.json: which MLflow run a folder belongs to, and the settings it began with."""

    run_id: str
    tracking_uri: str
    experiment: str
    settings: dict[str, Any]


def card_of(folder: Path) -> RunMetadata | None:
    """The folder's run.json, None where there is none.

    Raises:
        OptionError: it is there and cannot be read.
    """
    file = folder / RUN_FILE
    if not file.exists():
        return None
    try:
        return RunMetadata(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise OptionError(f"{str(file)!r} is not a run's card: {error}") from error


def write_card(folder: Path, card: RunMetadata) -> None:
    """Written whole or not at all."""
    write_json(folder / RUN_FILE, asdict(card))


def write_json(file: Path, value: Any) -> None:
    """Written whole or not at all."""
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(value, indent=2))
    partial.replace(file)


@contextmanager
def held(folder: Path, patience_s: float = 0.0) -> Iterator[None]:
    """The folder belongs to this process until the end.

    Args:
        folder: of one run.
        patience_s: how long another process may still need to let go of it.

    Raises:
        OptionError: another process works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_s
    with (folder / LOCK_FILE).open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise OptionError(
                        f"another process works in {str(folder)!r}; wait for it or take another --output_dir"
                    ) from error
                time.sleep(0.2)
        yield


def archive_run(folder: Path) -> Path | None:
    """Moves what an earlier run left to `earlier/<run id>`, so that a new one begins in an empty folder. Nothing is deleted."""
    card = card_of(folder)
    if card is None:
        return None
    place = folder / "earlier" / card.run_id
    place.mkdir(parents=True, exist_ok=True)
    for path in [path for path in folder.iterdir() if path.name not in ("earlier", LOCK_FILE)]:
        path.rename(place / path.name)
    return place


class MlflowRun:
    """A courier's Mailbox: one MLflow run by its id."""

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        self._client, self._uri, self._run_id = tracking.client, tracking.uri, run_id

    def metrics(self, rows: list[Row]) -> None:
        """See courier.Mailbox."""
        with translated(self._uri):
            for start in range(0, len(rows), 1000):
                batch = [Metric(name, value, at_ms, step) for name, value, step, at_ms in rows[start : start + 1000]]
                self._client.log_batch(self._run_id, metrics=batch, synchronous=True)

    def history(self, name: str) -> set[tuple[int, int]]:
        """See courier.Mailbox."""
        with translated(self._uri):
            return {(metric.step, metric.timestamp) for metric in self._client.get_metric_history(self._run_id, name)}

    def image(self, record: Record, file: Path) -> None:
        """See courier.Mailbox. The name is the one that MLflow's page reads step and time from."""
        if not file.exists():
            return  # delivered before, and removed after
        identity = uuid.UUID(hashlib.sha256(f"{record['key']} {record['step']} {record['at_ms']}".encode()).hexdigest()[:32])
        stem = f"{record['key']}+step+{record['step']}+timestamp+{record['at_ms']}+{identity}"
        named, small = file.with_name(f"{stem}.png"), file.with_name(f"{stem}+compressed.webp")
        with Image.open(file) as image:
            thumbnail = image.convert("RGB")
        thumbnail.thumbnail((256, 256))
        thumbnail.save(small, "WEBP")
        named.write_bytes(file.read_bytes())
        with translated(self._uri):
            self._client.log_artifact(self._run_id, str(named), "images")
            self._client.log_artifact(self._run_id, str(small), "images")
            self._client.set_tag(self._run_id, "mlflow.loggedImages", True)
        for done in (named, small, file):
            done.unlink()

    def note(self, record: Record) -> None:
        """See courier.Mailbox."""
        with translated(self._uri):
            if record["kind"] == "params":
                params = [Param(name, str(value)) for name, value in record["values"].items()]
                for start in range(0, len(params), MOST_PARAMS):
                    self._client.log_batch(self._run_id, params=params[start : start + MOST_PARAMS], synchronous=True)
            elif record["kind"] == "tags":
                tags = [RunTag(name, str(value)) for name, value in record["values"].items()]
                self._client.log_batch(self._run_id, tags=tags, synchronous=True)
            elif record["kind"] == "text":
                self._client.log_text(self._run_id, record["text"], record["path"])
            elif record["kind"] == "status" and record["status"] == "RUNNING":
                self._client.update_run(self._run_id, "RUNNING")
            elif record["kind"] == "status":
                self._client.set_terminated(self._run_id, record["status"], record["at_ms"])


class OpenRun:
    """A run being worked on: a Sink whose records travel by journal and courier."""

    def __init__(self, folder: Path, tracking: Tracking, run_id: str) -> None:
        self.id, self.folder, self.tracking = run_id, folder, tracking
        self.journal = Journal(folder / JOURNAL_FOLDER)
        self._courier = Uploader(self.journal, MlflowRun(tracking, run_id))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink."""
        self.journal.metrics(step, values)

    def image(self, image: Image.Image, key: str, step: int) -> None:
        """See Sink."""
        self.journal.image(image, key, step)

    def text(self, text: str, path: str) -> None:
        """A small text artifact."""
        self.journal.append({"kind": "text", "text": text, "path": path})

    def settings(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Parameters and tags of the run."""
        self.journal.append({"kind": "params", "values": dict(params)})
        self.journal.append({"kind": "tags", "values": dict(tags)})

    def status(self, status: str, at_ms: int) -> None:
        """RUNNING, FINISHED, FAILED or KILLED."""
        self.journal.append({"kind": "status", "status": status, "at_ms": at_ms})

    def deliver(self, patience_s: float) -> bool:
        """Waits until MLflow has everything so far, or the patience ends; returns whether it has."""
        complete = self._courier.finish(patience_s)
        self._courier = Uploader(self.journal, MlflowRun(self.tracking, self.id))
        return complete

    def close(self, patience_s: float = 0.0) -> bool:
        """Like `deliver`, and ends the run's thread."""
        complete = self._courier.finish(patience_s)
        self.journal.close()
        return complete


def open_run(
    folder: Path, tracking: Tracking, experiment: str, name: str | None, settings: dict[str, Any], tags: dict[str, str]
) -> OpenRun:
    """The run that the folder's card names, or a new one.

    Raises:
        TrackingError: the server did not answer; only a new run needs it.
    """
    card = card_of(folder)
    if card is None:
        run_id = tracking.create_run(experiment, name, tags)
        write_card(folder, RunMetadata(run_id, tracking.uri, experiment, settings))
        run = OpenRun(folder, tracking, run_id)
        run.settings({name: value for name, value in settings.items() if value is not None}, {})
        return run
    run = OpenRun(folder, tracking, card.run_id)
    run.status("RUNNING", 0)
    return run
