"""The engine's queue, cancellation, calls between steps, and shutdown."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from atelier_infer.engine.engine import Engine
from atelier_infer.errors import CancelledJobError, QueueFullError

from .paced import PATIENCE_S, Listener, Paced, submit, take_step


def test_tasks_of_one_size_share_steps_and_join_and_leave_between_them(make_engine: Callable[..., Engine]) -> None:
    seen = []

    def recording(tasks: list[Paced]) -> list[None]:
        seen.append([task.name for task in tasks])
        return take_step(tasks)

    engine = make_engine(take_step=recording)
    first, second = Paced(3, name="first", key="size"), Paced(1, name="second", key="size")
    tasks = [submit(engine, first)]
    first.arrived()
    tasks.append(submit(engine, second))
    second.let()
    first.let(3)
    assert [task.future.result(PATIENCE_S).shape for task in tasks] == [(1, 1, 3)] * 2
    assert seen == [["first"], ["first", "second"], ["first"]]
    assert tasks[1].started_at >= tasks[0].started_at >= tasks[0].queued_at


def test_the_rows_of_a_step_are_limited(make_engine: Callable[..., Engine]) -> None:
    seen = []

    def recording(tasks: list[Paced]) -> list[None]:
        seen.append(sum(task.rows for task in tasks))
        return take_step(tasks)

    engine = make_engine(take_step=recording, rows_limit=4)
    tasks_ = [Paced(2, key="size") for _ in range(3)]
    tasks = [submit(engine, task) for task in tasks_]
    for task in tasks_:
        task.let(2)
    for task in tasks:
        task.future.result(PATIENCE_S)
    assert max(seen) == 4
    assert sum(seen) == 3 * 2 * 2


def test_a_listener_is_called_after_every_step(make_engine: Callable[..., Engine]) -> None:
    engine, heard = make_engine(), []
    task = Paced(3)
    task.let(3)
    submit(engine, task, listener=Listener(lambda task: heard.append(task.completed_steps))).future.result(PATIENCE_S)
    assert heard == [1, 2, 3]


def test_a_failing_listener_does_not_stop_the_engine(
    make_engine: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    engine, task = make_engine(), Paced(2)
    task.let(2)
    assert submit(engine, task, listener=Listener(lambda task: 1 / 0)).future.result(PATIENCE_S) is not None
    assert sum(record.getMessage() == "step listener failed" for record in caplog.records) == 2
    assert engine.run_between_steps(lambda: 3) == 3


def test_queue_position_and_seconds_left(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    engine.admission.mean_s = 10.0
    first, second = Paced(4), Paced(4)
    tasks = [submit(engine, first), submit(engine, second)]
    first.arrived()
    assert [engine.queue_position(task) for task in tasks] == [0, 1]
    assert engine.seconds_left(tasks[1]) == pytest.approx(20)
    for task in (first, second):
        task.let(4)
    for task in tasks:
        task.future.result(PATIENCE_S)
    assert [engine.queue_position(task) for task in tasks] == [None, None]


def test_each_image_counts_towards_the_queue_limit_unless_the_request_is_alone(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(queue_limit=2)
    with engine.admit(8):
        assert engine.admission.admitted == 8
        with pytest.raises(QueueFullError, match="8 are under way and 1 more"), engine.admit():
            pass
    with engine.admit(), engine.admit(2), pytest.raises(QueueFullError), engine.admit():
        pass


def test_decoding_does_not_block_steps(make_engine: Callable[..., Engine]) -> None:
    engine, go = make_engine(), threading.Event()
    slow, other = Paced(1), Paced(1)
    slow.finish = lambda keep_going: go.wait(PATIENCE_S) and np.zeros((1, 1, 3), np.uint8)  # type: ignore[assignment, return-value]
    tasks = [submit(engine, slow), submit(engine, other)]
    slow.let()
    other.arrived()  # it steps while the first one is decoded
    other.let()
    assert not tasks[0].future.done()
    go.set()
    assert all(task.future.result(PATIENCE_S) is not None for task in tasks)


def test_images_count_from_arrival_to_response(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(queue_limit=1)
    with engine.admit(), engine.admit():
        assert engine.admission.admitted == 2
        with pytest.raises(QueueFullError) as caught, engine.admit():
            pass
        assert caught.value.retry_after_s >= 1
    with engine.admit():
        assert engine.admission.admitted == 1
    assert engine.admission.admitted == 0


def test_retry_after_grows_with_the_cost_of_images(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(queue_limit=0)
    engine.admission.mean_s = 12.4
    with engine.admit(), pytest.raises(QueueFullError) as caught, engine.admit():
        pass
    assert caught.value.retry_after_s == 13


def test_a_cancelled_task_ends_at_its_next_step(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    running, waiting, other = Paced(50), Paced(50), Paced(1)
    tasks = [submit(engine, running)]
    running.arrived()
    tasks += [submit(engine, waiting), submit(engine, other)]
    tasks[0].cancel()
    tasks[1].cancel()
    running.let()
    other.let()
    tasks[2].future.result(PATIENCE_S)
    assert running.left == 49
    assert waiting.journal == []  # never begun
    for task in tasks[:2]:
        with pytest.raises(CancelledJobError):
            task.future.result(PATIENCE_S)


def test_a_call_waits_for_one_step_at_most(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    journal: list[Any] = []
    task = Paced(3, journal, "task")
    task = submit(engine, task)
    task.arrived()
    thread = threading.Thread(target=lambda: engine.run_between_steps(lambda: journal.append("call")))
    thread.start()
    while not engine._calls:
        time.sleep(0.001)
    task.let(3)
    task.future.result(PATIENCE_S)
    thread.join()
    assert journal == ["task begins", "task steps", "call", "task steps", "task steps"]


def test_calls_return_results_and_raise_errors(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    assert engine.run_between_steps(lambda: threading.current_thread().name) == "engine"
    with pytest.raises(ZeroDivisionError):
        engine.run_between_steps(lambda: 1 / 0)
    assert engine.run_between_steps(lambda: 3) == 3


def test_an_error_ends_only_its_task(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    broken, good = Paced(1), Paced(1)
    broken.finish = lambda keep_going: 1 / 0  # type: ignore[assignment, return-value]
    tasks = [submit(engine, broken), submit(engine, good)]
    broken.let()
    good.let()
    with pytest.raises(ZeroDivisionError):
        tasks[0].future.result(PATIENCE_S)
    assert tasks[1].future.result(PATIENCE_S) is not None
