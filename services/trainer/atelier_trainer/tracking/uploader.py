"""Carries the journal to MLflow from a thread of its own; nobody waits for it, and no failure there ends a training."""

from __future__ import annotations

import logging
import threading
from typing import Any, Protocol

from atelier_trainer.errors import TrackingError
from atelier_trainer.tracking.journal import Journal, Record

log = logging.getLogger(__name__)
BATCH_RECORDS = 200
GATHER_S = 2.0  # records of so many seconds travel together
LONGEST_PAUSE_S = 30.0
Row = tuple[str, float, int, int]


class RunBackend(Protocol):
    """One run on a tracking server. Every method raises TrackingError where the server did not answer or refused."""

    def metrics(self, rows: list[Row]) -> None:
        """Adds (name, value, step, unix time in ms) rows."""

    def history(self, name: str) -> set[tuple[int, int]]:
        """(step, time in ms) of every value that the server has of a metric."""

    def image(self, record: Record, file: Any) -> None:
        """Puts an image under a name that depends on the record alone, so that twice is once."""

    def note(self, record: Record) -> None:
        """Parameters, tags, files or the run's status; twice is once."""


def deliver(journal: Journal, mailbox: RunBackend, cautious: bool) -> bool:
    """Sends the next records; returns whether there were any.

    Args:
        journal: where they come from.
        mailbox: where they go.
        cautious: the server may have some of them already, from an attempt whose answer was lost: it is asked first.

    Raises:
        TrackingError: the records stay in the journal.
    """
    records, mark = journal.next(BATCH_RECORDS)
    if not records:
        if journal.pending:
            journal.delivered(mark)
        return False
    rows = [
        (str(name), float(value), int(step), int(at))
        for r in records
        if r["kind"] == "metrics"
        for name, value, step, at in r["rows"]
    ]
    if rows and cautious:
        there = {name: mailbox.history(name) for name in {row[0] for row in rows}}
        rows = [row for row in rows if row[2:] not in there[row[0]]]
    if rows:
        mailbox.metrics(rows)
    for record in records:
        if record["kind"] == "image":
            mailbox.image(record, journal.folder / "images" / record["file"])
        elif record["kind"] != "metrics":
            mailbox.note(record)
    journal.delivered(mark)
    return True


class Uploader:
    """A thread that delivers until told to stop; after a failure it pauses, longer each time, and asks before it repeats."""

    def __init__(self, journal: Journal, mailbox: RunBackend) -> None:
        self._journal, self._mailbox = journal, mailbox
        self._ending, self._patience_s = threading.Event(), 0.0
        self._thread = threading.Thread(target=self._work, name="courier", daemon=True)
        self._thread.start()

    def finish(self, patience_s: float) -> bool:
        """Delivers what is left and ends the thread.

        Args:
            patience_s: how long a server that does not answer is waited for.

        Returns:
            Whether everything was delivered.
        """
        self._patience_s = patience_s
        self._ending.set()
        self._thread.join()
        return not self._journal.pending

    def _work(self) -> None:
        cautious, pause_s, left_s = True, 1.0, None
        while True:
            ending = self._ending.is_set()
            try:
                while deliver(self._journal, self._mailbox, cautious):
                    cautious, pause_s, left_s = False, 1.0, None
                if ending:
                    return
                self._ending.wait(GATHER_S)
            except TrackingError as error:
                if not cautious:
                    log.warning("%s; the training goes on and the run's journal keeps everything", error)
                cautious = True
                if ending:
                    left_s = (self._patience_s if left_s is None else left_s) - pause_s
                    if left_s < 0:
                        return
                    threading.Event().wait(pause_s)
                else:
                    self._ending.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
