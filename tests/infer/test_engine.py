"""The queue, cancellation, errands between steps, and the end."""

import threading
import time

import numpy as np
import pytest
from atelier_infer.engine.engine import Engine
from atelier_infer.errors import CancelledJobError, DrainingError, MemoryFullError, QueueFullError

from .conftest import wait

PATIENCE_S = 20


class Paced:
    """A drawing whose steps are let through one by one. By default its size is its own, so that it steps alone."""

    def __init__(self, steps: int, journal: list[str] | None = None, name: str = "", key: object = None) -> None:
        self.left, self.journal, self.name = steps, journal if journal is not None else [], name
        self.key, self.rows, self.parts, self.steps = key or id(self), 2, {}, steps
        self.go, self.reached = threading.Semaphore(0), threading.Semaphore(0)

    @property
    def taken(self) -> int:
        return self.steps - self.left

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

    def finish(self, proceed) -> np.ndarray:
        return np.zeros((1, 1, 3), np.uint8)

    def let(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.go.release()

    def arrived(self) -> None:
        assert self.reached.acquire(timeout=PATIENCE_S)


def advance(images: list[Paced]) -> list[None]:
    for image in images:
        image.step()
    return [None] * len(images)


@pytest.fixture
def make_engine():
    engines = []

    def make(queue_limit: int = 2, drain_timeout_s: float = 5, **changes) -> Engine:
        values = {"advance": advance, "rows_limit": 8, "rank_limit": 64}
        engines.append(Engine(queue_limit=queue_limit, drain_timeout_s=drain_timeout_s, **(values | changes)))
        engines[-1].start()
        return engines[-1]

    yield make
    for engine in engines:
        engine.stop()


def test_drawings_of_one_size_step_together_and_join_and_leave_between_steps(make_engine):
    seen = []

    def noting(images):
        seen.append([image.name for image in images])
        return advance(images)

    engine = make_engine(advance=noting)
    first, second = Paced(3, name="first", key="size"), Paced(1, name="second", key="size")
    jobs = [engine.submit(first)]
    first.arrived()
    jobs.append(engine.submit(second))
    second.let()
    first.let(3)
    assert [job.future.result(PATIENCE_S).shape for job in jobs] == [(1, 1, 3)] * 2
    assert seen == [["first"], ["first", "second"], ["first"]]
    assert jobs[1].started_at >= jobs[0].started_at >= jobs[0].queued_at


def test_rows_of_a_step_are_limited(make_engine):
    seen = []

    def noting(images):
        seen.append(sum(image.rows for image in images))
        return advance(images)

    engine = make_engine(advance=noting, rows_limit=4)
    drawings = [Paced(2, key="size") for _ in range(3)]
    jobs = [engine.submit(drawing) for drawing in drawings]
    for drawing in drawings:
        drawing.let(2)
    for job in jobs:
        job.future.result(PATIENCE_S)
    assert max(seen) == 4
    assert sum(seen) == 3 * 2 * 2


def test_a_listener_hears_of_every_step(make_engine):
    engine, heard = make_engine(), []
    drawing = Paced(3)
    drawing.let(3)
    engine.submit(drawing, on_step=lambda job: heard.append(job.image.taken)).future.result(PATIENCE_S)
    assert heard == [1, 2, 3]


def test_a_listener_that_fails_ends_nothing(make_engine, caplog):
    engine, drawing = make_engine(), Paced(2)
    drawing.let(2)
    assert engine.submit(drawing, on_step=lambda job: 1 / 0).future.result(PATIENCE_S) is not None
    assert sum(record.getMessage() == "a listener failed" for record in caplog.records) == 2
    assert engine.run_between_steps(lambda: 3) == 3


def test_position_and_seconds_left(make_engine):
    engine = make_engine()
    engine._mean_s = 10.0
    first, second = Paced(4), Paced(4)
    jobs = [engine.submit(first), engine.submit(second)]
    first.arrived()
    assert [engine.position(job) for job in jobs] == [0, 1]
    assert engine.seconds_left(jobs[1]) == pytest.approx(20)
    for drawing in (first, second):
        drawing.let(4)
    for job in jobs:
        job.future.result(PATIENCE_S)
    assert [engine.position(job) for job in jobs] == [None, None]


def test_several_images_take_several_places_unless_alone(make_engine):
    engine = make_engine(queue_limit=2)
    with engine.admit(8):
        assert engine.admitted == 8
        with pytest.raises(QueueFullError, match="8 are under way and 1 more"), engine.admit():
            pass
    with engine.admit(), engine.admit(2), pytest.raises(QueueFullError), engine.admit():
        pass


def test_decoding_does_not_hold_up_steps(make_engine):
    engine, go = make_engine(), threading.Event()
    slow, other = Paced(1), Paced(1)
    slow.finish = lambda proceed: go.wait(PATIENCE_S) and np.zeros((1, 1, 3), np.uint8)
    jobs = [engine.submit(slow), engine.submit(other)]
    slow.let()
    other.arrived()  # it steps while the first one is decoded
    other.let()
    assert not jobs[0].future.done()
    go.set()
    assert all(job.future.result(PATIENCE_S) is not None for job in jobs)


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
    jobs = [engine.submit(running)]
    running.arrived()
    jobs += [engine.submit(waiting), engine.submit(other)]
    jobs[0].cancel()
    jobs[1].cancel()
    running.let()
    other.let()
    jobs[2].future.result(PATIENCE_S)
    assert running.left == 49
    assert waiting.journal == []  # never begun
    for job in jobs[:2]:
        with pytest.raises(CancelledJobError):
            job.future.result(PATIENCE_S)


def test_an_errand_waits_for_one_step_at_most(make_engine):
    engine, journal = make_engine(), []
    drawing = Paced(3, journal, "drawing")
    job = engine.submit(drawing)
    drawing.arrived()
    thread = threading.Thread(target=lambda: engine.run_between_steps(lambda: journal.append("errand")))
    thread.start()
    while not engine._errands:
        time.sleep(0.001)
    drawing.let(3)
    job.future.result(PATIENCE_S)
    thread.join()
    assert journal == ["drawing begins", "drawing steps", "errand", "drawing steps", "drawing steps"]


def test_errands_give_results_and_errors_to_their_sender(make_engine):
    engine = make_engine()
    assert engine.run_between_steps(lambda: threading.current_thread().name) == "engine"
    with pytest.raises(ZeroDivisionError):
        engine.run_between_steps(lambda: 1 / 0)
    assert engine.run_between_steps(lambda: 3) == 3


def test_an_error_ends_its_drawing_alone(make_engine):
    engine = make_engine()
    broken, good = Paced(1), Paced(1)
    broken.finish = lambda proceed: 1 / 0
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

    def run_between_steps() -> None:
        try:
            engine.run_between_steps(lambda: None)
        except DrainingError as error:
            errors.append(error)

    threads = [threading.Thread(target=run_between_steps), threading.Thread(target=engine.stop)]
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
        engine.run_between_steps(lambda: None)


class Account:
    """Stands for the account of memory: so many images fit, and none while another is decoded if `alone`."""

    def __init__(self, room: int, *, alone: bool = False) -> None:
        self.room, self.alone = room, alone

    def fits(self, images, decoded) -> bool:
        return len(images) <= self.room and not (self.alone and decoded)

    def full(self, image) -> MemoryFullError:
        return MemoryFullError(f"no memory for {image.name}")


def test_a_step_waits_for_the_memory_of_a_decoding(make_engine):
    decoding, go = threading.Event(), threading.Event()

    class Decoded(Paced):
        def finish(self, proceed) -> np.ndarray:
            decoding.set()
            assert go.wait(PATIENCE_S)
            self.journal.append("decoded")
            return super().finish(proceed)

    engine, journal = make_engine(memory=Account(8, alone=True)), []
    first, second = Decoded(1, journal, "first"), Paced(1, journal, "second")
    first.let()
    second.let()
    jobs = [engine.submit(first)]
    assert decoding.wait(PATIENCE_S)
    jobs.append(engine.submit(second))
    go.set()
    assert [job.future.result(PATIENCE_S).shape for job in jobs] == [(1, 1, 3)] * 2
    assert journal == ["first begins", "first steps", "decoded", "second begins", "second steps"]


def test_what_nothing_under_way_can_make_room_for_ends_with_the_reason(make_engine):
    job = make_engine(memory=Account(0)).submit(Paced(1, name="large"))
    with pytest.raises(MemoryFullError, match="no memory for large"):
        job.future.result(PATIENCE_S)


def test_a_batch_that_runs_out_of_memory_is_split_and_keeps_its_steps(make_engine):
    account, seen = Account(8), []

    def scarce(images):
        seen.append([image.name for image in images])
        if len(images) > 2:
            account.room = 2
            raise MemoryFullError("too many")
        return advance(images)

    engine = make_engine(advance=scarce, memory=account, queue_limit=8)
    held = threading.Event()
    blocker = threading.Thread(target=engine.run_between_steps, args=(lambda: held.wait(PATIENCE_S),))
    blocker.start()
    drawings = [Paced(2, key="size", name=str(index)) for index in range(4)]
    jobs = [engine.submit(drawing) for drawing in drawings]
    for drawing in drawings:
        drawing.let(2)
    held.set()
    assert [len(job.future.result(PATIENCE_S)) for job in jobs] == [1] * 4
    blocker.join()
    assert seen == [["0", "1", "2", "3"], ["0", "1"], ["0", "1"], ["2", "3"], ["2", "3"]]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_stuck_or_dead_is_not_alive(make_engine):
    engine = make_engine(stuck_after_s=0.2)
    assert engine.alive
    slow = Paced(1)
    job = engine.submit(slow)
    slow.arrived()
    wait(lambda: not engine.alive)
    slow.let()
    job.future.result(PATIENCE_S)
    wait(lambda: engine.alive)

    def broken(rows, drawings, seconds):
        raise RuntimeError("a defect outside of every step")

    engine = make_engine(stepped=broken)
    fatal = Paced(1)
    fatal.let()
    engine.submit(fatal).future.result(PATIENCE_S)
    wait(lambda: not engine.alive)
