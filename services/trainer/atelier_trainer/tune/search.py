"""One search, top to bottom: the parent run, Ray, the trials, the ranking, the winner's recipe."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import socket
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.tune
import yaml
from rich.console import Console

from atelier_trainer.config.options import LOCAL_FIELDS, PATH_FIELDS, TrainOptions
from atelier_trainer.errors import OptionError, SearchError
from atelier_trainer.export.publish import read_outcome
from atelier_trainer.tracking.mlflow_runs import Tracking
from atelier_trainer.tracking.runs import RUN_FILE, OpenRun, archive_run, card_of, held, open_run
from atelier_trainer.tune.best_trial import WINNER_FILE
from atelier_trainer.tune.options import TuneOptions
from atelier_trainer.tune.progress_table import ProgressTable
from atelier_trainer.tune.space import build_space, read_space
from atelier_trainer.tune.trial import METRIC, TIME, TRIALS_FOLDER, run_trial

log = logging.getLogger(__name__)
RAY_FOLDER, SEARCH_NAME = "ray", "search"
CONNECT_TIMEOUT_S = 10.0
TRIAL_ENDS_WITHIN_S = 60.0
MOST_STEPS = 10**9  # ASHA compares at 1, 3, 9, ... steps, however far trials go, and stops nobody for being done
OBJECT_STORE_BYTES = 200 * 2**20  # trials exchange numbers only


def tune(search: TuneOptions, options: TrainOptions, console: Console) -> dict[str, Any]:
    """Runs every trial and records the best.

    Args:
        search: how to search.
        options: of every trial; `output_dir` is the search's own folder and, on a cluster, one that all nodes share.
        console: the table of trials goes here.

    Returns:
        run_id of the parent, settings and losses of the best trial, number of trials and of failed ones.

    Raises:
        SearchError: the cluster cannot run a trial, or none ended well.
        TrainerError: see atelier_trainer.errors.
    """
    options = _absolute(options)
    plain = read_space(search.space)
    space = build_space(plain, options, search.search == "grid")
    out, tracking = Path(options.output_dir), Tracking(str(options.tracking_uri))
    with ExitStack() as stack:
        stack.enter_context(held(out))
        if options.resume_from_checkpoint is None and (moved := archive_run(out)) is not None:
            console.print(f"an earlier search's files are now in {moved}", soft_wrap=True)
        settings = dataclasses.asdict(search) | {"space": yaml.safe_dump(plain, default_flow_style=True).strip()}
        settings = {name: value for name, value in settings.items() if name != "ray_address"} | options.resolved()
        _check_settings(out, settings)
        run = open_run(
            out, tracking, options.experiments_name, options.run_name or "search", settings, {"atelier.kind": "search"}
        )
        stack.callback(run.close)
        stack.callback(_close_trials, out, tracking)  # when Ray has let go of them
        console.print(f"search {run.id} of experiment {options.experiments_name!r} at {tracking.uri}", soft_wrap=True)
        try:
            stack.enter_context(_cluster(search))
            trials = _tuner(search, options, space, run.id, console).fit()
            summary = _ranked(trials, options, run)
        except BaseException as error:
            run.status("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", time.time_ns() // 1_000_000)
            raise
        run.status("FINISHED", time.time_ns() // 1_000_000)
        if not run.deliver(options.tracking_patience_s):
            console.print(
                f"MLflow has not got all of it; once it answers: python -m atelier_trainer sync {out}", soft_wrap=True
            )
    return summary


class _cluster:  # noqa: N801 - used as a statement
    """Ray, ours or by address, for the time of the search."""

    def __init__(self, search: TuneOptions) -> None:
        self._address = search.ray_address

    def __enter__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        local = {} if self._address else {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        try:
            self._reach()
            ray.init(address=self._address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise SearchError(f"--ray_address {self._address!r} does not answer: {first_line[:200]}") from error

    def _reach(self) -> None:
        """Ray itself tries for minutes to reach an address where nothing listens."""
        host, _, port = (self._address or "").removeprefix("ray://").rpartition(":")
        if host and port.isdecimal():
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()

    def __exit__(self, *_: object) -> None:
        ray.shutdown()


def _tuner(search: TuneOptions, options: TrainOptions, space: dict[str, Any], parent: str, console: Console) -> Any:
    out = Path(options.output_dir)
    settled = dataclasses.replace(options, register=None, push_to_hub=False, hub_model_id=None, export="adapter")
    trainable = ray.tune.with_resources(partial(run_trial, options=settled, parent=parent), _resources(search, console))
    place = out / RAY_FOLDER / SEARCH_NAME
    table = ProgressTable(console, list(space))
    if options.resume_from_checkpoint is not None and ray.tune.Tuner.can_restore(str(place)):
        console.print("going on with the interrupted search", soft_wrap=True)
        return ray.tune.Tuner.restore(str(place), trainable, resume_unfinished=True, param_space=space)
    scheduler = None
    if search.trial_scheduler == "asha":
        scheduler = ray.tune.schedulers.ASHAScheduler(
            time_attr=TIME, max_t=MOST_STEPS, grace_period=1, reduction_factor=3, stop_last_trials=False
        )
    algorithm = None
    if search.search == "optuna":
        from optuna.samplers import TPESampler
        from ray.tune.search.optuna import OptunaSearch

        algorithm = OptunaSearch(sampler=TPESampler(seed=options.seed))
    elif search.search == "random":
        algorithm = ray.tune.search.BasicVariantGenerator(random_state=options.seed)
    return ray.tune.Tuner(
        trainable,
        param_space=space,
        tune_config=ray.tune.TuneConfig(
            metric=METRIC,
            mode="min",
            num_samples=search.samples,
            scheduler=scheduler,
            search_alg=algorithm,
            max_concurrent_trials=search.max_concurrent_trials,
            # The next trial need not import all over again; but one that was stopped in mid-run keeps its actor for a while.
            reuse_actors=scheduler is None,
        ),
        run_config=ray.tune.RunConfig(
            name=SEARCH_NAME,
            storage_path=str(out / RAY_FOLDER),
            callbacks=[table],
            verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=0, fail_fast=False),
        ),
    )


def _resources(search: TuneOptions, console: Console) -> dict[str, float]:
    """What a trial takes of the cluster.

    Raises:
        SearchError: more than the cluster has, so that no trial would ever begin.
    """
    there = ray.cluster_resources()
    gpus, cpus = there.get("GPU", 0.0), there.get("CPU", 0.0)
    wanted = {"cpu": search.cpus_per_trial, "gpu": search.gpus_per_trial}
    if search.gpus_per_trial > 0 and gpus == 0:
        wanted = {"cpu": max(search.cpus_per_trial, math.ceil(search.gpus_per_trial)), "gpu": 0.0}
        console.print(
            f"[yellow]warning[/]: gpus_per_trial {search.gpus_per_trial:g} needs a GPU and the cluster has none; "
            f"a trial takes {wanted['cpu']:g} CPUs",
            soft_wrap=True,
        )
    if search.gpus_per_trial > 1 and gpus:
        console.print("[yellow]warning[/]: a trial trains in one process and computes on one of its GPUs", soft_wrap=True)
    if wanted["gpu"] > gpus or wanted["cpu"] > cpus:
        raise SearchError(
            f"a trial takes {wanted['gpu']:g} GPUs and {wanted['cpu']:g} CPUs, and the cluster has {gpus:g} and {cpus:g}: "
            "lower --gpus_per_trial or --cpus_per_trial"
        )
    return wanted


def _ranked(trials: Any, options: TrainOptions, run: OpenRun) -> dict[str, Any]:
    """Records every trial and the best of them with the parent run.

    Raises:
        SearchError: no trial has a finite validation loss.
    """
    rows: list[dict[str, Any]] = []
    for result in trials:
        metrics = result.metrics or {}
        loss = float(metrics.get(METRIC, math.inf))
        state = (
            "failed" if result.error is not None else str(metrics.get("outcome", "failed")).replace("running", "stopped early")
        )
        rows.append({"config": result.config or {}, METRIC: loss, "ema_loss": metrics.get("ema_loss"), "state": state})
    rows.sort(key=lambda row: (row["state"] == "failed", row[METRIC]))
    run.text(yaml.safe_dump(rows, sort_keys=False), "trials.yaml")
    ended = [row for row in rows if row["state"] != "failed" and math.isfinite(row[METRIC])]
    if not ended:
        raise SearchError(f"none of the {len(rows)} trials ended well; see their runs in MLflow and {options.output_dir}")
    best = ended[0]
    winner = dataclasses.replace(options, **best["config"])
    run.text(yaml.safe_dump(winner.recipe(), sort_keys=False), WINNER_FILE)
    run.metrics(0, {"best_validation_loss": best[METRIC], "trials": len(rows)})
    failed = sum(row["state"] == "failed" for row in rows)
    return {
        "run_id": run.id,
        "best": best["config"],
        METRIC: best[METRIC],
        "ema_loss": best["ema_loss"],
        "trials": len(rows),
        "failed": failed,
    }


def _close_trials(out: Path, tracking: Tracking) -> None:
    """Ray ends a stopped trial's process without a word: its run is closed here, and what its journal holds is delivered."""
    for file in sorted((out / TRIALS_FOLDER).glob(f"*/{RUN_FILE}")):
        card = card_of(file.parent)
        assert card is not None
        try:
            with held(file.parent, TRIAL_ENDS_WITHIN_S):
                run = OpenRun(file.parent, tracking, card.run_id)
                if read_outcome(file.parent) is None and not run.journal.ended:
                    run.status("KILLED", time.time_ns() // 1_000_000)
                run.close()
        except OptionError as error:
            log.warning("%s", error)


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    card = card_of(out)
    changed = [] if card is None else [name for name, value in settings.items() if card.settings.get(name) != value]
    if changed:
        raise OptionError(
            f"the search in {str(out)!r} began with other settings of {', '.join(changed)}: give those, or leave out "
            "--resume_from_checkpoint"
        )


def _absolute(options: TrainOptions) -> TrainOptions:
    """Workers have a working directory of their own."""
    values: dict[str, Any] = {}
    for name in (*PATH_FIELDS, *LOCAL_FIELDS):
        value = getattr(options, name)
        local = name in ("cache_dir", "output_dir") or (name in PATH_FIELDS and value and Path(value).expanduser().is_dir())
        if local:
            values[name] = str(Path(value).expanduser().resolve())
    return dataclasses.replace(options, **values)
