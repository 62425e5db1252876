"""Uploads the journal to MLflow in a thread of its own: no training waits for it or fails because of it."""

from __future__ import annotations

import logging
import threading
from typing import Any, Protocol

from atelier_trainer.errors import TrackingError
from atelier_trainer.tracking.journal import Journal, Record

log = logging.getLogger(__name__)
BATCH_RECORDS = 200
POLL_S = 2.0  # records of this many seconds are sent together
FIRST_RETRY_S, MAX_RETRY_S = 1.0, 30.0
Row = tuple[str, float, int, int]


class RunBackend(Protocol):
    """One run on a tracking server. Every method raises TrackingError where the server does not answer or refuses."""

    def log_metrics(self, rows: list[Row]) -> None:
        """Adds (name, value, step, Unix time in ms) rows; a repeated row is duplicated."""

    def metric_history(self, name: str) -> set[tuple[int, int]]:
        """(step, time in ms) of every value that the server has of a metric."""

    def log_image(self, record: Record, file: Any) -> None:
        """Idempotent: the image's name depends on the record alone."""

    def log_record(self, record: Record) -> None:
        """Parameters, tags, text files or the run's status; idempotent."""


def deliver(journal: Journal, backend: RunBackend, check_existing: bool) -> bool:
    """Sends the next batch of records; returns whether there were any.

    Args:
        journal: source of the records.
        backend: their destination.
        check_existing: ask the server first which metrics it has: the response to an earlier attempt may have been lost.

    Raises:
        TrackingError: the records stay in the journal.
    """
    records, offset = journal.read_pending(BATCH_RECORDS)
    if not records:
        if journal.pending:
            journal.mark_delivered(offset)
        return False
    rows = [
        (str(name), float(value), int(step), int(at_ms))
        for record in records
        if record["kind"] == "metrics"
        for name, value, step, at_ms in record["rows"]
    ]
    if rows and check_existing:
        existing = {name: backend.metric_history(name) for name in {row[0] for row in rows}}
        rows = [row for row in rows if row[2:] not in existing[row[0]]]
    if rows:
        backend.log_metrics(rows)
    for record in records:
        if record["kind"] == "image":
            backend.log_image(record, journal.folder / "images" / record["file"])
        elif record["kind"] != "metrics":
            backend.log_record(record)
    journal.mark_delivered(offset)
    return True


class Uploader:
    """Delivers in a thread until it is stopped. After a failure it waits, longer each time, and checks what the server has."""

    def __init__(self, journal: Journal, backend: RunBackend) -> None:
        self._journal, self._backend = journal, backend
        self._stopping, self._timeout_s = threading.Event(), 0.0
        self._thread = threading.Thread(target=self._run, name="mlflow-uploader", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Delivers the rest, retrying for `timeout_s`, and ends the thread; returns whether everything was delivered."""
        self._timeout_s = timeout_s
        self._stopping.set()
        self._thread.join()
        return not self._journal.pending

    def _run(self) -> None:
        check_existing, retry_s, remaining_s = True, FIRST_RETRY_S, None
        while True:
            stopping = self._stopping.is_set()
            try:
                while deliver(self._journal, self._backend, check_existing):
                    check_existing, retry_s, remaining_s = False, FIRST_RETRY_S, None
                if stopping:
                    return
                self._stopping.wait(POLL_S)
            except TrackingError as error:
                if not check_existing:
                    log.warning("upload failed, will retry: %s", error)
                check_existing = True
                if stopping:
                    remaining_s = (self._timeout_s if remaining_s is None else remaining_s) - retry_s
                    if remaining_s < 0:
                        return
                    threading.Event().wait(retry_s)
                else:
                    self._stopping.wait(retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)
