"""`sync`: delivers to MLflow what it did not take during the training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from atelier_trainer.errors import OptionError
from atelier_trainer.export.outcome import read_outcome
from atelier_trainer.export.publish import RunTarget, publish
from atelier_trainer.tracking.journal import Journal
from atelier_trainer.tracking.mlflow_client import TrackingClient
from atelier_trainer.tracking.mlflow_run import MlflowRun
from atelier_trainer.tracking.run_folder import JOURNAL_FOLDER, RUN_FILE, read_run_metadata, run_lock
from atelier_trainer.tracking.uploader import deliver

ALL_RECORDS = 10**9


def sync(folder: Path, tracking_uri: str | None, report: Callable[[str], None]) -> int:
    """Delivers every run in and below the folder; returns their number.

    Args:
        folder: --output_dir of a training or a search.
        tracking_uri: the server's current address; by default the one that the run was started with.
        report: gets a line per run.

    Raises:
        OptionError: there is no run, or its training still works.
        TrackingError: the server does not answer; nothing is lost.
    """
    run_files = sorted(folder.rglob(RUN_FILE))
    if not run_files:
        raise OptionError(f"there is no run in {str(folder)!r}; give the --output_dir of a training or a search")
    for file in run_files:
        with run_lock(file.parent):
            report(_sync_run(file.parent, tracking_uri, report))
    return len(run_files)


def _sync_run(folder: Path, tracking_uri: str | None, report: Callable[[str], None]) -> str:
    """Delivers one run; returns the line about it."""
    metadata = read_run_metadata(folder)
    assert metadata is not None
    tracking = TrackingClient(tracking_uri or metadata.tracking_uri)
    journal = Journal(folder / JOURNAL_FOLDER)
    try:
        records = len(journal.read_pending(ALL_RECORDS)[0])
        backend = MlflowRun(tracking, metadata.run_id)
        while journal.pending:
            deliver(journal, backend, check_existing=True)
    finally:
        journal.close()
    line = f"run {metadata.run_id}: {records} records delivered"
    outcome = read_outcome(folder)
    if outcome is None or outcome.published:
        return line
    published = publish(folder, outcome, RunTarget(tracking, metadata.run_id), report)
    if published.version is None:
        return f"{line}, the adapter"
    return f"{line}, version {published.version} of {outcome.flags['register']}"
