"""Trainings in processes of their own that can be killed, forked from a server that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from atelier_trainer.config.options import TrainOptions

from ..servers import free_port

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["atelier_trainer.train", "mlflow", "tests.trainer.forked_training"])
TIMEOUT_S = 240


class KillAtStep:
    """A sink that kills its own process when the step is logged, before anything that follows it."""

    def __init__(self, step: int | None) -> None:
        self._step = step

    def log_metrics(self, step: int, values: Any) -> None:
        if step == self._step and "loss" in values:
            os.kill(os.getpid(), signal.SIGKILL)

    def log_image(self, image: Any, key: str, step: int) -> None:
        pass

    def close(self) -> None:
        pass


def _train(options: TrainOptions, kill_at: int | None, environment: dict[str, str]) -> None:
    from atelier_trainer.train import RunExtras, train
    from rich.console import Console

    os.environ.update(environment)
    train(options, Console(quiet=True), RunExtras(sinks=[KillAtStep(kill_at)], publish=False))


def start_training(options: TrainOptions, processes: int, kill_at: int | None = None) -> list[ForkServerProcess]:
    """Starts one training; several processes find each other as those of accelerate launch do, on the CPU with gloo."""
    shared = {"OMP_NUM_THREADS": "1"}
    if processes > 1:
        shared |= {
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "ACCELERATE_USE_CPU": "true",
        }
    started = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        started.append(SERVER.Process(target=_train, args=(options, kill_at, shared | own), daemon=True))
        started[-1].start()
    return started


def outcomes(processes: list[ForkServerProcess]) -> list[int | None]:
    """Exit codes; minus the signal's number where one ended the process."""
    for process in processes:
        process.join(TIMEOUT_S)
    return [process.exitcode for process in processes]


def end(processes: list[ForkServerProcess]) -> None:
    for process in processes:
        process.kill()
        process.join()


def adapter_bytes(folder: Path) -> bytes:
    return (folder / "pytorch_lora_weights.safetensors").read_bytes()
