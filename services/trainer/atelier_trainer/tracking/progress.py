"""How far a training is, on a terminal; where there is none, a line per stage."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bars:
    """One bar at a time: encoding, then steps."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._name, self._task = "", TaskID(0)

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(text, soft_wrap=True, highlight=False)

    def encoded(self, done: int, total: int) -> None:
        """Images encoded."""
        self._show("encode", done, total, "encode")

    def steps(self, done: int, total: int, said: str) -> None:
        """Optimizer steps done."""
        self._show("train", done, total, f"train  {said}")

    def close(self) -> None:
        """Leaves the last bar as it is."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _show(self, name: str, done: int, total: int, said: str) -> None:
        if name != self._name or self._progress is None:
            self.close()
            columns = (
                TextColumn("{task.description:<22}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=self._console)
            self._name, self._task = name, self._progress.add_task(said, total=total)
            self._progress.start()
        self._progress.update(self._task, completed=done, total=total, description=said)
