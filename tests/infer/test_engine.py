"""The queue, cancellation, errands between steps, and the end."""

import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from atelier_infer.engine import Engine
from atelier_infer.errors import DrainingError, QueueFullError

PATIENCE_S = 20


class Paced:
    """A drawing whose steps are let through one by one."""

    def __init__(self, steps: int, journal: list[str] | None = None, name: str = "") -> None:
        self.left, self.journal, self.name = steps, journal if journal is not None else [], name
        self.go, self.reached = threading.Semaphore(0), threading.Semaphore(0)

    @property
    def done(self) -> bool:
        return self.left == 0

    def begin(self) -> None:
        self.journal.append(f"{self.name} begins")

    def step(self) -> None:
        self.reached.release()
        assert self.go.acquire(timeout=PATIENCE_S)
        self.left -= 1
        self.journal.append(f"{self.name} steps")

    def finish(self) -> np.ndarray:
        return np.zeros((1, 1, 3), np.uint8)

    def let(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.go.release()

    def arrived(self) -> None:
        assert self.reached.acquire(timeout=PATIENCE_S)


@pytest.fixture
def make_engine():
    engines = []

    def make(queue_limit: int = 2, drain_timeout_s: float = 5) -> Engine:
        engines.append(Engine(queue_limit=queue_limit, drain_timeout_s=drain_timeout_s))
        engines[-1].start()
        return engines[-1]

    yield make
    for engine in engines:
        engine.stop()


def test_first_come_first_drawn(make_engine):
    engine, journal = make_engine(), []
    first, second = Paced(1, journal, "first"), Paced(1, journal, "second")
    jobs = [engine.submit(first), engine.submit(second)]
    second.let()
    first.let()
    assert [job.future.result(PATIENCE_S).shape for job in jobs] == [(1, 1, 3)] * 2
    assert journal == ["first begins", "first steps", "second begins", "second steps"]
    assert jobs[1].started_at >= jobs[0].started_at >= jobs[0].queued_at


def test_places_are_counted_from_arrival_to_answer(make_engine):
    engine = make_engine(queue_limit=1)
    with engine.admit(), engine.admit():
        assert engine.admitted == 2
        with pytest.raises(QueueFullError) as caught, engine.admit():
            pass
        assert caught.value.retry_after_s >= 1
    with engine.admit():
        assert engine.admitted == 1
    assert engine.admitted == 0


def test_retry_after_grows_with_how_long_drawings_take(make_engine):
    engine = make_engine(queue_limit=0)
    engine._mean_s = 12.4
    with engine.admit(), pytest.raises(QueueFullError) as caught, engine.admit():
        pass
    assert caught.value.retry_after_s == 13


def test_a_cancelled_drawing_ends_at_its_next_step(make_engine):
    engine = make_engine()
    running, waiting, other = Paced(50), Paced(50), Paced(1)
    jobs = [engine.submit(running), engine.submit(waiting), engine.submit(other)]
    running.arrived()
    jobs[0].cancel()
    jobs[1].cancel()
    running.let()
    other.let()
    jobs[2].future.result(PATIENCE_S)
    assert running.left == 49
    assert waiting.journal == []  # never begun
    for job in jobs[:2]:
        with pytest.raises(CancelledError):
            job.future.result(PATIENCE_S)


def test_an_errand_waits_for_one_step_at_most(make_engine):
    engine, journal = make_engine(), []
    drawing = Paced(3, journal, "drawing")
    job = engine.submit(drawing)
    drawing.arrived()
    thread = threading.Thread(target=lambda: engine.errand(lambda: journal.append("errand")))
    thread.start()
    while not engine._errands:
        time.sleep(0.001)
    drawing.let(3)
    job.future.result(PATIENCE_S)
    thread.join()
    assert journal == ["drawing begins", "drawing steps", "errand", "drawing steps", "drawing steps"]


def test_errands_give_results_and_errors_to_their_sender(make_engine):
    engine = make_engine()
    assert engine.errand(lambda: threading.current_thread().name) == "engine"
    with pytest.raises(ZeroDivisionError):
        engine.errand(lambda: 1 / 0)
    assert engine.errand(lambda: 3) == 3


def test_an_error_ends_its_drawing_alone(make_engine):
    engine = make_engine()
    broken, good = Paced(1), Paced(1)
    broken.finish = lambda: 1 / 0
    jobs = [engine.submit(broken), engine.submit(good)]
    broken.let()
    good.let()
    with pytest.raises(ZeroDivisionError):
        jobs[0].future.result(PATIENCE_S)
    assert jobs[1].future.result(PATIENCE_S) is not None


def test_draining_finishes_what_was_admitted_and_refuses_the_rest(make_engine):
    engine = make_engine()
    running, waiting = Paced(2), Paced(1)
    jobs = [engine.submit(running), engine.submit(waiting)]
    running.arrived()
    engine.drain()
    with pytest.raises(DrainingError), engine.admit():
        pass
    running.let(2)
    waiting.let()
    assert all(job.future.result(PATIENCE_S) is not None for job in jobs)


def test_draining_ends_what_takes_too_long(make_engine):
    engine = make_engine(drain_timeout_s=0.05)
    running, waiting = Paced(50), Paced(1)
    jobs = [engine.submit(running), engine.submit(waiting)]
    running.arrived()
    engine.drain()
    time.sleep(0.1)
    running.let()
    for job in jobs:
        with pytest.raises(DrainingError):
            job.future.result(PATIENCE_S)


def test_stopping_tells_everyone(make_engine):
    engine = make_engine()
    running, waiting = Paced(50), Paced(1)
    jobs = [engine.submit(running), engine.submit(waiting)]
    running.arrived()
    errors = []

    def errand() -> None:
        try:
            engine.errand(lambda: None)
        except DrainingError as error:
            errors.append(error)

    threads = [threading.Thread(target=errand), threading.Thread(target=engine.stop)]
    threads[0].start()
    while not engine._errands:
        time.sleep(0.001)
    threads[1].start()
    while not engine._stopping:
        time.sleep(0.001)
    running.let()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(errors) == 1
    for job in jobs:
        with pytest.raises(DrainingError):
            job.future.result(PATIENCE_S)
    with pytest.raises(DrainingError):
        engine.errand(lambda: None)
