"""The Ray cluster that a search runs on."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from rich.console import Console

from atelier_trainer.errors import SearchError, first_line
from atelier_trainer.tune.options import TuneOptions

CONNECT_TIMEOUT_S = 10.0
OBJECT_STORE_BYTES = 200 * 2**20  # trials exchange numbers only


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Connects to the cluster, or starts a local one; disconnects or stops it afterwards.

    Raises:
        SearchError: the address does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    local = {} if address else {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        _probe(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise SearchError(f"--ray_address {address!r} does not answer: {first_line(error, 200)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _probe(address: str | None) -> None:
    """Fails early: Ray itself tries for minutes to reach an address where nothing listens."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()


def trial_resources(search: TuneOptions, console: Console) -> dict[str, float]:
    """What Ray reserves for a trial.

    Raises:
        SearchError: more than the cluster has, so that no trial would ever start.
    """
    available = ray.cluster_resources()
    gpus, cpus = available.get("GPU", 0.0), available.get("CPU", 0.0)
    needed = {"cpu": search.cpus_per_trial, "gpu": search.gpus_per_trial}
    if search.gpus_per_trial > 0 and gpus == 0:
        needed = {"cpu": max(search.cpus_per_trial, math.ceil(search.gpus_per_trial)), "gpu": 0.0}
        console.print(
            f"[yellow]warning[/]: gpus_per_trial {search.gpus_per_trial:g} needs a GPU and the cluster has none; "
            f"a trial gets {needed['cpu']:g} CPUs",
            soft_wrap=True,
        )
    if search.gpus_per_trial > 1 and gpus:
        console.print("[yellow]warning[/]: a trial trains in one process and computes on one of its GPUs", soft_wrap=True)
    if needed["gpu"] > gpus or needed["cpu"] > cpus:
        raise SearchError(
            f"a trial needs {needed['gpu']:g} GPUs and {needed['cpu']:g} CPUs, and the cluster has {gpus:g} and {cpus:g}: "
            "lower --gpus_per_trial or --cpus_per_trial"
        )
    return needed
