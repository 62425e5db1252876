"""One search, top to bottom: parent run, Ray, trials, ranking, the best settings."""

from __future__ import annotations

import dataclasses
import logging
import math
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import ray.tune
import yaml
from rich.console import Console

from atelier_trainer.config.options import LOCAL_FLAGS, PATH_FLAGS, TrainOptions
from atelier_trainer.errors import OptionError, SearchError
from atelier_trainer.export.outcome import read_outcome
from atelier_trainer.tracking.active_run import ActiveRun, NewRun, open_run
from atelier_trainer.tracking.mlflow_client import TrackingClient
from atelier_trainer.tracking.run_folder import RUN_FILE, archive_run, read_run_metadata, run_lock
from atelier_trainer.tune.best_trial import BEST_FILE
from atelier_trainer.tune.cluster import ray_cluster, trial_resources
from atelier_trainer.tune.options import TuneOptions
from atelier_trainer.tune.progress_table import STOPPED_EARLY, ProgressTable
from atelier_trainer.tune.space import build_space, read_space
from atelier_trainer.tune.trial import METRIC, RUNNING, STATE, TIME, TRIALS_FOLDER, run_trial

log = logging.getLogger(__name__)
RAY_FOLDER, SEARCH_NAME, TRIALS_FILE = "ray", "search", "trials.yaml"
TRIAL_ENDS_WITHIN_S = 60.0
MAX_STEPS = 10**9  # ASHA compares at 1, 3, 9, ... steps, however long trials are, and stops none for having finished


@dataclasses.dataclass(frozen=True)
class Search:
    """What the stages of a search use.

    Attributes:
        options: how to search.
        train_options: of every trial; paths are absolute, because workers have a working directory of their own.
        space: Ray's search space.
        console: gets progress.
    """

    options: TuneOptions
    train_options: TrainOptions
    space: dict[str, Any]
    console: Console

    @property
    def folder(self) -> Path:
        return Path(self.train_options.output.output_dir)


def tune(options: TuneOptions, train_options: TrainOptions, console: Console) -> dict[str, Any]:
    """Runs every trial and records the best.

    Args:
        options: how to search.
        train_options: of every trial; `output_dir` is the search's own folder and, on a cluster, one that all nodes share.
        console: gets the table of trials.

    Returns:
        run_id of the parent, settings and losses of the best trial, number of trials and of failed ones.

    Raises:
        SearchError: the cluster cannot run a trial, or no trial succeeded.
        TrainerError: see atelier_trainer.errors.
    """
    train_options = _with_absolute_paths(train_options)
    plain_space = read_space(options.space)
    search = Search(options, train_options, build_space(plain_space, train_options, options.search == "grid"), console)
    settings = dataclasses.asdict(options) | {"space": yaml.safe_dump(plain_space, default_flow_style=True).strip()}
    settings = {name: value for name, value in settings.items() if name != "ray_address"} | train_options.run_params()
    with ExitStack() as stack:
        stack.enter_context(run_lock(search.folder))
        run = _open_run(search, settings)
        stack.callback(run.close)
        stack.callback(_close_trials, search.folder, run.tracking)  # after Ray has ended their processes
        try:
            stack.enter_context(ray_cluster(options.ray_address))
            summary = _record_best(_tuner(search, run.id).fit(), search, run)
        except BaseException as error:
            run.set_status("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        run.set_status("FINISHED")
        if not run.deliver(train_options.tracking.tracking_patience_s):
            console.print(
                f"MLflow does not have everything; once it answers: python -m atelier_trainer sync {search.folder}",
                soft_wrap=True,
            )
    return summary


def _open_run(search: Search, settings: dict[str, Any]) -> ActiveRun:
    """The resumed search's run, or a new one in an empty folder.

    Raises:
        OptionError: the search to resume was started with other settings.
    """
    options, console = search.train_options, search.console
    if options.output.resume_from_checkpoint is None and (archive := archive_run(search.folder)) is not None:
        console.print(f"moved the files of an earlier search to {archive}", soft_wrap=True)
    metadata = read_run_metadata(search.folder)
    if metadata is not None:
        changed = [name for name, value in settings.items() if metadata.settings.get(name) != value]
        if changed:
            raise OptionError(
                f"the search in {str(search.folder)!r} was started with other settings of {', '.join(changed)}: restore them, "
                "or start a new search without --resume_from_checkpoint"
            )
    tracking = TrackingClient(str(options.tracking.tracking_uri))
    experiment, name = options.tracking.experiments_name, options.tracking.run_name or "search"
    run = open_run(search.folder, tracking, NewRun(experiment, name, settings, {"atelier.kind": "search"}))
    console.print(f"search {run.id} of experiment {experiment!r} at {tracking.uri}", soft_wrap=True)
    return run


def _tuner(search: Search, parent: str) -> Any:
    options = search.options
    trial_options = search.train_options.with_flags(register=None, push_to_hub=False, hub_model_id=None, export="adapter")
    trainable = ray.tune.with_resources(
        partial(run_trial, options=trial_options, parent=parent), trial_resources(options, search.console)
    )
    ray_folder = search.folder / RAY_FOLDER
    resume = search.train_options.output.resume_from_checkpoint is not None
    if resume and ray.tune.Tuner.can_restore(str(ray_folder / SEARCH_NAME)):
        search.console.print("resuming the interrupted search", soft_wrap=True)
        return ray.tune.Tuner.restore(
            str(ray_folder / SEARCH_NAME), trainable, resume_unfinished=True, param_space=search.space
        )
    scheduler = None
    if options.trial_scheduler == "asha":
        scheduler = ray.tune.schedulers.ASHAScheduler(
            time_attr=TIME, max_t=MAX_STEPS, grace_period=1, reduction_factor=3, stop_last_trials=False
        )
    return ray.tune.Tuner(
        trainable,
        param_space=search.space,
        tune_config=ray.tune.TuneConfig(
            metric=METRIC,
            mode="min",
            num_samples=options.samples,
            scheduler=scheduler,
            search_alg=_search_algorithm(options, search.train_options.optimization.seed),
            max_concurrent_trials=options.max_concurrent_trials,
            # A reused actor has its imports already; but a trial that was stopped early occupies its actor for a while.
            reuse_actors=scheduler is None,
        ),
        run_config=ray.tune.RunConfig(
            name=SEARCH_NAME,
            storage_path=str(ray_folder),
            callbacks=[ProgressTable(search.console, list(search.space))],
            verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=0, fail_fast=False),
        ),
    )


def _search_algorithm(options: TuneOptions, seed: int) -> Any:
    """None for a grid."""
    if options.search == "optuna":
        from optuna.samplers import TPESampler
        from ray.tune.search.optuna import OptunaSearch

        return OptunaSearch(sampler=TPESampler(seed=seed))
    return ray.tune.search.BasicVariantGenerator(random_state=seed) if options.search == "random" else None


def _record_best(trials: Any, search: Search, run: ActiveRun) -> dict[str, Any]:
    """Records every trial and the best settings with the parent run; returns the summary of `tune`.

    Raises:
        SearchError: no trial has a finite validation loss.
    """
    rows: list[dict[str, Any]] = []
    for result in trials:
        metrics = result.metrics or {}
        loss = float(metrics.get(METRIC, math.inf))
        state = "failed" if result.error is not None else str(metrics.get(STATE, "failed")).replace(RUNNING, STOPPED_EARLY)
        rows.append({"config": result.config or {}, METRIC: loss, "ema_loss": metrics.get("ema_loss"), "state": state})
    rows.sort(key=lambda row: (row["state"] == "failed", row[METRIC]))
    run.log_text(yaml.safe_dump(rows, sort_keys=False), TRIALS_FILE)
    succeeded = [row for row in rows if row["state"] != "failed" and math.isfinite(row[METRIC])]
    if not succeeded:
        raise SearchError(f"none of the {len(rows)} trials succeeded; see their runs in MLflow, and {search.folder}")
    best = succeeded[0]
    run.log_text(yaml.safe_dump(search.train_options.with_flags(**best["config"]).recipe(), sort_keys=False), BEST_FILE)
    run.log_metrics(0, {"best_validation_loss": best[METRIC], "trials": len(rows)})
    return {
        "run_id": run.id,
        "best": best["config"],
        METRIC: best[METRIC],
        "ema_loss": best["ema_loss"],
        "trials": len(rows),
        "failed": sum(row["state"] == "failed" for row in rows),
    }


def _close_trials(folder: Path, tracking: TrackingClient) -> None:
    """Closes the runs of trials that Ray stopped by ending their processes, and delivers what their journals hold."""
    for file in sorted((folder / TRIALS_FOLDER).glob(f"*/{RUN_FILE}")):
        metadata = read_run_metadata(file.parent)
        assert metadata is not None
        try:
            with run_lock(file.parent, TRIAL_ENDS_WITHIN_S):
                run = ActiveRun(file.parent, tracking, metadata.run_id)
                if read_outcome(file.parent) is None and not run.journal.ended:
                    run.set_status("KILLED")
                run.close()
        except OptionError as error:
            log.warning("trial could not be closed: %s", error)


def _with_absolute_paths(options: TrainOptions) -> TrainOptions:
    flags, absolute = options.flags(), {}
    for name in (*PATH_FLAGS, *LOCAL_FLAGS):
        value = flags[name]
        if name in ("cache_dir", "output_dir") or (name in PATH_FLAGS and value and Path(value).expanduser().is_dir()):
            absolute[name] = str(Path(value).expanduser().resolve())
    return options.with_flags(**absolute)
