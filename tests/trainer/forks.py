"""Trainings in processes of their own that can be killed; copies of a clean one that has imported everything already."""

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
SERVER.set_forkserver_preload(["atelier_trainer.train", "mlflow", "tests.trainer.forks"])


class KilledAt:
    """A Sink that ends its own process with SIGKILL when the step was logged, before anything that follows it."""

    def __init__(self, step: int | None) -> None:
        self._step = step

    def metrics(self, step: int, values: Any) -> None:
        if step == self._step and "loss" in values:
            os.kill(os.getpid(), signal.SIGKILL)

    def image(self, image: Any, key: str, step: int) -> None:
        pass

    def close(self) -> None:
        pass


def _train(options: TrainOptions, kill_at: int | None, environment: dict[str, str]) -> None:
    from atelier_trainer.train import train
    from rich.console import Console

    os.environ.update(environment)
    train(options, Console(quiet=True), sinks=[KilledAt(kill_at)], hand_over=False)


def crew(options: TrainOptions, processes: int, kill_at: int | None = None) -> list[ForkServerProcess]:
    """Started trainings; several find each other as those of accelerate launch do, on the CPU with gloo."""
    shared = {"OMP_NUM_THREADS": "1"}
    if processes > 1:
        shared |= {
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "ACCELERATE_USE_CPU": "true",
        }
    members = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        members.append(SERVER.Process(target=_train, args=(options, kill_at, shared | own), daemon=True))
        members[-1].start()
    return members


def outcomes(members: list[ForkServerProcess]) -> list[int | None]:
    """Exit codes, or minus the signals that ended them."""
    for member in members:
        member.join(240)
    return [member.exitcode for member in members]


def end(members: list[ForkServerProcess]) -> None:
    for member in members:
        member.kill()
        member.join()


def adapter_bytes(folder: Path) -> bytes:
    return (folder / "pytorch_lora_weights.safetensors").read_bytes()
