"""Progress of a training: bars on a terminal, a line per stage elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBars:
    """One bar at a time: encoding, then training."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._stage, self._task = "", TaskID(0)

    def print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)

    def show_encoding(self, done: int, total: int) -> None:
        self._show("encode", done, total, "encode")

    def show_training(self, done: int, total: int, ema_loss: float) -> None:
        self._show("train", done, total, f"train  loss {ema_loss:.4f}")

    def close(self) -> None:
        """Leaves the last bar on the screen."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _show(self, stage: str, done: int, total: int, description: str) -> None:
        if stage != self._stage or self._progress is None:
            self.close()
            columns = (
                TextColumn("{task.description:<22}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=self._console)
            self._stage, self._task = stage, self._progress.add_task(description, total=total)
            self._progress.start()
        self._progress.update(self._task, completed=done, total=total, description=description)
