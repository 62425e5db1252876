"""The engine's queue, cancellation, calls between steps, and shutdown."""

import threading
import time

import numpy as np
import pytest
from atelier_infer.engine.denoising_task import DenoisingTask
from atelier_infer.engine.engine import Engine
from atelier_infer.errors import CancelledJobError, DrainingError, OutOfMemoryError, QueueFullError

from ..conftest import wait

PATIENCE_S = 20


class Paced(DenoisingTask):
    """A task whose steps are released one by one. By default it has a bucket of its own, so it runs alone."""

    bucket_key = rows = adapter_ranks = steps = None

    def __init__(self, steps: int, journal: list[str] | None = None, name: str = "", key: object = None) -> None:
        super().__init__()
        self.left, self.journal, self.name = steps, journal if journal is not None else [], name
        self.bucket_key, self.rows, self.adapter_ranks, self.steps = key or id(self), 2, {}, steps
        self.go, self.reached = threading.Semaphore(0), threading.Semaphore(0)

    @property
    def completed_steps(self) -> int:
        return self.steps - self.left

    def prepare(self) -> None:
        self.journal.append(f"{self.name} begins")

    def step(self) -> None:
        self.reached.release()
        assert self.go.acquire(timeout=PATIENCE_S)
        self.left -= 1
        self.journal.append(f"{self.name} steps")

    def finish(self, keep_going) -> np.ndarray:
        return np.zeros((1, 1, 3), np.uint8)

    def let(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.go.release()

    def arrived(self) -> None:
        assert self.reached.acquire(timeout=PATIENCE_S)


class Listener:
    def __init__(self, call) -> None:
        self.on_step = call


def submit(engine: Engine, task: Paced, **options) -> Paced:
    engine.submit(task, **options)
    return task


def take_step(tasks: list[Paced]) -> list[None]:
    for task in tasks:
        task.step()
    return [None] * len(tasks)


@pytest.fixture
def make_engine():
    engines = []

    def make(queue_limit: int = 2, drain_timeout_s: float = 5, **changes) -> Engine:
        values = {"take_step": take_step, "rows_limit": 8, "rank_limit": 64}
        engines.append(Engine(queue_limit=queue_limit, drain_timeout_s=drain_timeout_s, **(values | changes)))
        engines[-1].start()
        return engines[-1]

    yield make
    for engine in engines:
        engine.stop()


def test_tasks_of_one_size_share_steps_and_join_and_leave_between_them(make_engine):
    seen = []

    def recording(tasks):
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


def test_the_rows_of_a_step_are_limited(make_engine):
    seen = []

    def recording(tasks):
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


def test_a_listener_is_called_after_every_step(make_engine):
    engine, heard = make_engine(), []
    task = Paced(3)
    task.let(3)
    submit(engine, task, listener=Listener(lambda task: heard.append(task.completed_steps))).future.result(PATIENCE_S)
    assert heard == [1, 2, 3]


def test_a_failing_listener_does_not_stop_the_engine(make_engine, caplog):
    engine, task = make_engine(), Paced(2)
    task.let(2)
    assert submit(engine, task, listener=Listener(lambda task: 1 / 0)).future.result(PATIENCE_S) is not None
    assert sum(record.getMessage() == "step listener failed" for record in caplog.records) == 2
    assert engine.run_between_steps(lambda: 3) == 3


def test_queue_position_and_seconds_left(make_engine):
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


def test_each_image_counts_towards_the_queue_limit_unless_the_request_is_alone(make_engine):
    engine = make_engine(queue_limit=2)
    with engine.admit(8):
        assert engine.admission.admitted == 8
        with pytest.raises(QueueFullError, match="8 are under way and 1 more"), engine.admit():
            pass
    with engine.admit(), engine.admit(2), pytest.raises(QueueFullError), engine.admit():
        pass


def test_decoding_does_not_block_steps(make_engine):
    engine, go = make_engine(), threading.Event()
    slow, other = Paced(1), Paced(1)
    slow.finish = lambda keep_going: go.wait(PATIENCE_S) and np.zeros((1, 1, 3), np.uint8)
    tasks = [submit(engine, slow), submit(engine, other)]
    slow.let()
    other.arrived()  # it steps while the first one is decoded
    other.let()
    assert not tasks[0].future.done()
    go.set()
    assert all(task.future.result(PATIENCE_S) is not None for task in tasks)


def test_images_count_from_arrival_to_response(make_engine):
    engine = make_engine(queue_limit=1)
    with engine.admit(), engine.admit():
        assert engine.admission.admitted == 2
        with pytest.raises(QueueFullError) as caught, engine.admit():
            pass
        assert caught.value.retry_after_s >= 1
    with engine.admit():
        assert engine.admission.admitted == 1
    assert engine.admission.admitted == 0


def test_retry_after_grows_with_the_cost_of_images(make_engine):
    engine = make_engine(queue_limit=0)
    engine.admission.mean_s = 12.4
    with engine.admit(), pytest.raises(QueueFullError) as caught, engine.admit():
        pass
    assert caught.value.retry_after_s == 13


def test_a_cancelled_task_ends_at_its_next_step(make_engine):
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


def test_a_call_waits_for_one_step_at_most(make_engine):
    engine, journal = make_engine(), []
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


def test_calls_return_results_and_raise_errors(make_engine):
    engine = make_engine()
    assert engine.run_between_steps(lambda: threading.current_thread().name) == "engine"
    with pytest.raises(ZeroDivisionError):
        engine.run_between_steps(lambda: 1 / 0)
    assert engine.run_between_steps(lambda: 3) == 3


def test_an_error_ends_only_its_task(make_engine):
    engine = make_engine()
    broken, good = Paced(1), Paced(1)
    broken.finish = lambda keep_going: 1 / 0
    tasks = [submit(engine, broken), submit(engine, good)]
    broken.let()
    good.let()
    with pytest.raises(ZeroDivisionError):
        tasks[0].future.result(PATIENCE_S)
    assert tasks[1].future.result(PATIENCE_S) is not None


def test_draining_finishes_admitted_tasks_and_refuses_new_ones(make_engine):
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


def test_draining_ends_tasks_that_take_too_long(make_engine):
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


def test_stopping_fails_waiting_tasks_and_calls(make_engine):
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


class Budget:
    """A memory budget in which `room` tasks fit, and none while another is decoded if `alone`."""

    def __init__(self, room: int, *, alone: bool = False) -> None:
        self.room, self.alone = room, alone

    def fits(self, tasks, decoding) -> bool:
        return len(tasks) <= self.room and not (self.alone and decoding)

    def out_of_memory_error(self, task) -> OutOfMemoryError:
        return OutOfMemoryError(f"no memory for {task.name}")


def test_a_step_waits_for_the_memory_of_a_decode(make_engine):
    decoding, go = threading.Event(), threading.Event()

    class Decoded(Paced):
        def finish(self, keep_going) -> np.ndarray:
            decoding.set()
            assert go.wait(PATIENCE_S)
            self.journal.append("decoded")
            return super().finish(keep_going)

    engine, journal = make_engine(memory=Budget(8, alone=True)), []
    first, second = Decoded(1, journal, "first"), Paced(1, journal, "second")
    first.let()
    second.let()
    tasks = [submit(engine, first)]
    assert decoding.wait(PATIENCE_S)
    tasks.append(submit(engine, second))
    go.set()
    assert [task.future.result(PATIENCE_S).shape for task in tasks] == [(1, 1, 3)] * 2
    assert journal == ["first begins", "first steps", "decoded", "second begins", "second steps"]


def test_a_task_that_can_never_get_memory_fails_with_the_reason(make_engine):
    task = submit(make_engine(memory=Budget(0)), Paced(1, name="large"))
    with pytest.raises(OutOfMemoryError, match="no memory for large"):
        task.future.result(PATIENCE_S)


def test_a_batch_that_runs_out_of_memory_is_split_and_keeps_its_steps(make_engine):
    account, seen = Budget(8), []

    def scarce(tasks):
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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_stuck_or_dead_is_not_alive(make_engine):
    engine = make_engine(stuck_after_s=0.2)
    assert engine.alive
    slow = Paced(1)
    task = submit(engine, slow)
    slow.arrived()
    wait(lambda: not engine.alive)
    slow.let()
    task.future.result(PATIENCE_S)
    wait(lambda: engine.alive)

    def broken(rows, tasks, seconds):
        raise RuntimeError("a defect outside of every step")

    engine = make_engine(record_step=broken)
    fatal = Paced(1)
    fatal.let()
    submit(engine, fatal).future.result(PATIENCE_S)
    wait(lambda: not engine.alive)
