"""Draining, stopping, and the health of the thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from atelier_infer.engine.engine import Engine
from atelier_infer.errors import DrainingError

from ..conftest import wait
from .paced import PATIENCE_S, Paced, submit


def test_draining_finishes_admitted_tasks_and_refuses_new_ones(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    running, waiting = Paced(2), Paced(1)
    tasks = [submit(engine, running), submit(engine, waiting)]
    running.arrived()
    engine.drain()
    with pytest.raises(DrainingError), engine.admit():
        pass
    running.let(2)
    waiting.let()
    assert all(task.future.result(PATIENCE_S) is not None for task in tasks)


def test_draining_ends_tasks_that_take_too_long(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(drain_timeout_s=0.05)
    running, waiting = Paced(50), Paced(1)
    tasks = [submit(engine, running), submit(engine, waiting)]
    running.arrived()
    engine.drain()
    time.sleep(0.1)
    running.let()
    for task in tasks:
        with pytest.raises(DrainingError):
            task.future.result(PATIENCE_S)


def test_stopping_fails_waiting_tasks_and_calls(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    running, waiting = Paced(50), Paced(1)
    tasks = [submit(engine, running), submit(engine, waiting)]
    running.arrived()
    errors = []

    def run_between_steps() -> None:
        try:
            engine.run_between_steps(lambda: None)
        except DrainingError as error:
            errors.append(error)

    threads = [threading.Thread(target=run_between_steps), threading.Thread(target=engine.stop)]
    threads[0].start()
    while not engine._calls:
        time.sleep(0.001)
    threads[1].start()
    while not engine._stopping:
        time.sleep(0.001)
    running.let()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(errors) == 1
    for task in tasks:
        with pytest.raises(DrainingError):
            task.future.result(PATIENCE_S)
    with pytest.raises(DrainingError):
        engine.run_between_steps(lambda: None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_stuck_or_dead_is_not_alive(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(stuck_after_s=0.2)
    assert engine.alive
    slow = Paced(1)
    task = submit(engine, slow)
    slow.arrived()
    wait(lambda: not engine.alive)
    slow.let()
    task.future.result(PATIENCE_S)
    wait(lambda: engine.alive)

    def broken(rows: int, tasks: int, seconds: float) -> None:
        raise RuntimeError("a defect outside of every step")

    engine = make_engine(record_step=broken)
    fatal = Paced(1)
    fatal.let()
    submit(engine, fatal).future.result(PATIENCE_S)
    wait(lambda: not engine.alive)
