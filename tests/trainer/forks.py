"""Trainings in processes of their own that can be killed, without paying for the imports again."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState, PartialState

from ..servers import free_port


def forked(work: Callable[[], object], environment: Mapping[str, str] = {}) -> int:  # noqa: B006 - never changed
    """Process id of a copy of this process that does the work and ends with 0, or with 1 and a traceback."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.update(environment)
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        PartialState._reset_state()
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def outcome(child: int) -> int:
    """Exit code, or minus the signal that ended it."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def crew(work: Callable[[], object], processes: int) -> list[int]:
    """Forked processes that find each other as those of accelerate launch do, on the CPU with gloo."""
    if processes == 1:
        return [forked(work)]
    shared = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "ACCELERATE_USE_CPU": "true",
    }
    return [forked(work, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(processes)]


class KilledAt:
    """A Sink that ends the whole crew with SIGKILL when the step was logged, before anything that follows it."""

    def __init__(self, step: int, also: Callable[[], list[int]] = list) -> None:
        self._step, self._also = step, also

    def metrics(self, step, values):
        if step == self._step and "loss" in values:
            os.kill(os.getpid(), signal.SIGKILL)

    def picture(self, image, key, step):
        pass

    def close(self):
        pass


def end(children: list[int]) -> None:
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def adapter_bytes(folder: Path) -> bytes:
    return (folder / "pytorch_lora_weights.safetensors").read_bytes()
