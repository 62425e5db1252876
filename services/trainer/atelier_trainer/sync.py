"""`sync`: what a run's folder still has for MLflow, delivered after the training, by a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from atelier_trainer.errors import OptionError
from atelier_trainer.export.publish import publish, read_outcome
from atelier_trainer.tracking.journal import Journal
from atelier_trainer.tracking.mlflow_runs import Tracking
from atelier_trainer.tracking.runs import JOURNAL_FOLDER, RUN_FILE, MlflowRun, card_of, held
from atelier_trainer.tracking.uploader import deliver


def sync(folder: Path, tracking_uri: str | None, say: Callable[[str], None]) -> int:
    """Delivers every run in and below the folder; returns their number.

    Args:
        folder: a training's or a search's --output_dir.
        tracking_uri: where the server is now; the run's own address by default.
        say: told a line per run.

    Raises:
        OptionError: there is no run, or its training still works.
        TrackingError: the server does not answer; nothing is lost.
    """
    cards = sorted(folder.rglob(RUN_FILE))
    if not cards:
        raise OptionError(f"there is no run in {str(folder)!r}; give the --output_dir of a training or a search")
    for file in cards:
        place, card = file.parent, card_of(file.parent)
        assert card is not None
        with held(place):
            tracking = Tracking(tracking_uri or card.tracking_uri)
            journal = Journal(place / JOURNAL_FOLDER)
            try:
                records = 0
                mailbox = MlflowRun(tracking, card.run_id)
                while journal.pending:
                    records += len(journal.next(10**9)[0]) if not records else 0
                    deliver(journal, mailbox, cautious=True)
            finally:
                journal.close()
            outcome, made = read_outcome(place), ""
            if outcome is not None and not outcome.published:
                version = publish(place, outcome, tracking, card.run_id, say)
                made = f", version {version} of {outcome.options['register']}" if version is not None else ", the adapter"
            say(f"run {card.run_id}: {records} records delivered{made}")
    return len(cards)
