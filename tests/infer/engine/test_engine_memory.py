"""Steps that wait for memory, and batches that run out of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from atelier_infer.engine.engine import Engine
from atelier_infer.errors import OutOfMemoryError

from .paced import PATIENCE_S, Paced, submit, take_step


class Budget:
    """A memory budget in which `room` tasks fit, and none while another is decoded if `alone`."""

    def __init__(self, room: int, *, alone: bool = False) -> None:
        self.room, self.alone = room, alone

    def fits(self, tasks: list[Any], decoding: list[Paced]) -> bool:
        return len(tasks) <= self.room and not (self.alone and decoding)

    def out_of_memory_error(self, task: Paced) -> OutOfMemoryError:
        return OutOfMemoryError(f"no memory for {task.name}")


def test_a_step_waits_for_the_memory_of_a_decode(make_engine: Callable[..., Engine]) -> None:
    decoding, go = threading.Event(), threading.Event()

    class Decoded(Paced):
        def finish(self, keep_going: Callable[..., Any]) -> np.ndarray:
            decoding.set()
            assert go.wait(PATIENCE_S)
            self.journal.append("decoded")
            return super().finish(keep_going)

    engine = make_engine(memory=Budget(8, alone=True))
    journal: list[Any] = []
    first, second = Decoded(1, journal, "first"), Paced(1, journal, "second")
    first.let()
    second.let()
    tasks = [submit(engine, first)]
    assert decoding.wait(PATIENCE_S)
    tasks.append(submit(engine, second))
    go.set()
    assert [task.future.result(PATIENCE_S).shape for task in tasks] == [(1, 1, 3)] * 2
    assert journal == ["first begins", "first steps", "decoded", "second begins", "second steps"]


def test_a_task_that_can_never_get_memory_fails_with_the_reason(make_engine: Callable[..., Engine]) -> None:
    task = submit(make_engine(memory=Budget(0)), Paced(1, name="large"))
    with pytest.raises(OutOfMemoryError, match="no memory for large"):
        task.future.result(PATIENCE_S)


def test_a_batch_that_runs_out_of_memory_is_split_and_keeps_its_steps(make_engine: Callable[..., Engine]) -> None:
    account, seen = Budget(8), []

    def scarce(tasks: list[Paced]) -> list[None]:
        seen.append([task.name for task in tasks])
        if len(tasks) > 2:
            account.room = 2
            raise OutOfMemoryError("too many")
        return take_step(tasks)

    engine = make_engine(take_step=scarce, memory=account, queue_limit=8)
    held = threading.Event()
    blocker = threading.Thread(target=engine.run_between_steps, args=(lambda: held.wait(PATIENCE_S),))
    blocker.start()
    tasks_ = [Paced(2, key="size", name=str(index)) for index in range(4)]
    tasks = [submit(engine, task) for task in tasks_]
    for task in tasks_:
        task.let(2)
    held.set()
    assert [len(task.future.result(PATIENCE_S)) for task in tasks] == [1] * 4
    blocker.join()
    assert seen == [["0", "1", "2", "3"], ["0", "1"], ["0", "1"], ["2", "3"], ["2", "3"]]
