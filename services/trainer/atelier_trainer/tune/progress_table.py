"""Progress of a search: a live table on a terminal, a line per finished trial elsewhere."""

from __future__ import annotations

from typing import Any

import ray.tune
from rich.console import Console
from rich.live import Live
from rich.table import Table

from atelier_trainer.tune.trial import METRIC, RUNNING, STATE, TIME

EMPTY, STOPPED_EARLY = "–", "stopped early"


class ProgressTable(ray.tune.Callback):
    """Ray calls it when a trial starts, reports and ends."""

    def __init__(self, console: Console, searched: list[str]) -> None:
        self._console, self._searched = console, searched
        self._rows: dict[str, dict[str, Any]] = {}
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its callbacks with the search; a terminal cannot be pickled."""
        return {"searched": self._searched}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ProgressTable.__init__(self, Console(stderr=True), state["searched"])

    def setup(self, *_: Any, **__: Any) -> None:
        if self._live is not None:
            self._live.start()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._update(trial, RUNNING, {})

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self._update(trial, RUNNING, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._end(trial, str((trial.last_result or {}).get(STATE, "ended")).replace(RUNNING, STOPPED_EARLY))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._end(trial, "failed")

    def on_experiment_end(self, trials: list[Any], **_: Any) -> None:
        if self._live is not None:
            self._live.stop()

    def _end(self, trial: Any, state: str) -> None:
        row = self._update(trial, state, trial.last_result or {})
        if self._live is None:
            values = ", ".join(f"{name} {row.get(name)}" for name in self._searched)
            self._console.print(f"trial {trial.trial_id} {state}: {values}; {METRIC} {row[METRIC]}", soft_wrap=True)

    def _update(self, trial: Any, state: str, result: dict[str, Any]) -> dict[str, Any]:
        row = self._rows.setdefault(trial.trial_id, {TIME: EMPTY, METRIC: EMPTY, "ema_loss": EMPTY})
        row |= {name: trial.config.get(name) for name in self._searched} | {"state": state}
        row |= {name: result[name] for name in (TIME, METRIC, "ema_loss") if name in result}
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        return row

    def _table(self) -> Table:
        columns = ["state", *self._searched, TIME, METRIC, "ema_loss"]
        table = Table("trial", *columns)
        for name, row in self._rows.items():
            table.add_row(name, *(_format(row.get(column, EMPTY)) for column in columns))
        return table


def _format(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
