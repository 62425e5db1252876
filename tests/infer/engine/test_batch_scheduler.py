"""Fairness and limits of the batch scheduler, without threads."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from atelier_infer.engine.batch_scheduler import BatchScheduler
from atelier_infer.engine.denoising_task import DenoisingTask
from hypothesis import given
from hypothesis import strategies as st


class Task(DenoisingTask):
    bucket_key = rows = adapter_ranks = None
    steps, completed_steps = 1, 0

    def __init__(
        self, sender: int | str | None = None, *, key: int | str = "size", rows: int = 2, ranks: dict[str, int] | None = None
    ) -> None:
        super().__init__()
        self.sender, self.bucket_key, self.rows, self.adapter_ranks = sender, key, rows, ranks or {}

    def prepare(self) -> None: ...

    def finish(self, keep_going: Any) -> None: ...


def make_scheduler(rows_limit: int = 8, rank_limit: int = 64, **options: Any) -> BatchScheduler:
    return BatchScheduler(rows_limit=rows_limit, rank_limit=rank_limit, **options)


def add(scheduler: BatchScheduler, tasks: list[Task]) -> list[Task]:
    for task in tasks:
        scheduler.add(task)
    return tasks


def test_without_tasks_there_is_no_batch() -> None:
    assert make_scheduler().next_batch() == []


def test_tasks_of_one_size_share_a_step_up_to_the_row_limit() -> None:
    scheduler = make_scheduler(rows_limit=5)
    tasks = add(scheduler, [Task() for _ in range(3)])
    assert scheduler.next_batch() == tasks[:2]
    scheduler.remove(tasks[0])
    assert scheduler.next_batch() == tasks[1:]


def test_rows_freed_by_the_end_of_guidance_are_used() -> None:
    scheduler = make_scheduler(rows_limit=4)
    tasks = add(scheduler, [Task() for _ in range(3)])
    assert scheduler.next_batch() == tasks[:2]
    for task in tasks[:2]:
        task.rows = 1
    assert scheduler.next_batch() == tasks


def test_the_rank_of_an_adapter_counts_once() -> None:
    scheduler = make_scheduler(rank_limit=20)
    same = [Task(ranks={"a": 16}), Task(ranks={"a": 16})]
    small, large = Task(ranks={"b": 4}), Task(ranks={"c": 16})
    add(scheduler, [*same, small, large])
    assert scheduler.next_batch() == [*same, small]


def test_a_task_that_exceeds_a_limit_by_itself_runs_alone() -> None:
    scheduler = make_scheduler(rows_limit=1, rank_limit=1)
    tasks = add(scheduler, [Task(ranks={"a": 9}), Task()])
    assert scheduler.next_batch() == tasks[:1]


def test_sizes_get_equal_time_whatever_their_number_of_tasks() -> None:
    scheduler = make_scheduler()
    for key, number in (("large", 4), ("small", 1)):
        add(scheduler, [Task(key=key) for _ in range(number)])
    cost = {"large": 4.0, "small": 1.0}
    used: Counter[Any] = Counter()
    for _ in range(100):
        key = scheduler.next_batch()[0].bucket_key  # type: ignore[assignment]
        used[key] += cost[key]  # type: ignore[assignment]
        scheduler.record_time(cost[key])
    assert abs(used["large"] - used["small"]) <= max(cost.values())


def test_a_size_that_arrives_late_neither_waits_nor_catches_up() -> None:
    scheduler = make_scheduler()
    scheduler.add(Task(key="old"))
    for _ in range(50):
        scheduler.next_batch()
        scheduler.record_time(1.0)
    scheduler.add(Task(key="new"))
    order = []
    for _ in range(10):
        order.append(scheduler.next_batch()[0].bucket_key)
        scheduler.record_time(1.0)
    assert Counter(order) == {"old": 5, "new": 5}


def test_a_sender_of_many_images_does_not_block_others() -> None:
    scheduler = make_scheduler(rows_limit=4)
    many, other = [Task("many") for _ in range(6)], Task("other")
    add(scheduler, [*many, other])
    assert scheduler.next_batch() == [many[0], other]


def test_removing_an_absent_task_changes_nothing() -> None:
    scheduler, task = make_scheduler(), Task()
    scheduler.remove(task)
    scheduler.add(task)
    scheduler.remove(task)
    scheduler.remove(task)
    assert len(scheduler) == 0


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 2), st.integers(0, 9), st.integers(1, 6)), max_size=25),
    st.integers(1, 8),
    st.integers(1, 20),
)
def test_every_task_ends_and_no_batch_exceeds_a_limit(requests: list[Any], rows_limit: int, rank_limit: int) -> None:
    scheduler, left = make_scheduler(rows_limit, rank_limit), {}
    for number, (key, rows, rank, steps) in enumerate(requests):
        task = Task(number % 3, key=key, rows=rows, ranks={f"adapter {number % 4} of rank {rank}": rank})
        left[task] = steps
        scheduler.add(task)
    for _ in range(sum(left.values())):
        batch = scheduler.next_batch()
        if not batch:
            break
        if len(batch) > 1:
            assert sum(task.rows for task in batch) <= rows_limit
            ranks = {digest: rank for task in batch for digest, rank in task.adapter_ranks.items()}
            assert sum(ranks.values()) <= rank_limit
        assert len({task.bucket_key for task in batch}) == 1
        scheduler.record_time(1.0)
        for task in batch:  # type: ignore[assignment]
            left[task] -= 1
            if not left[task]:
                scheduler.remove(task)
    assert len(scheduler) == 0
    assert not any(left.values())


@pytest.mark.parametrize("rows_limit", [2, 8])
def test_iterating_gives_every_task_once(rows_limit: int) -> None:
    scheduler = make_scheduler(rows_limit)
    tasks = add(scheduler, [Task(key=number % 2) for number in range(7)])
    scheduler.next_batch()
    assert sorted(map(id, scheduler)) == sorted(map(id, tasks))


def test_tasks_join_while_there_is_memory_and_are_preempted_when_there_is_less() -> None:
    room = [3]
    scheduler = make_scheduler(fits_memory=lambda tasks: len(tasks) <= room[0])
    tasks = add(scheduler, [Task() for _ in range(5)])
    assert scheduler.next_batch() == tasks[:3]
    room[0] = 1
    assert scheduler.next_batch() == tasks[:1]
    room[0] = 4
    assert scheduler.next_batch() == tasks[:4], "a preempted task joins before one that has not begun"
    scheduler.split()
    assert scheduler.next_batch() == tasks[:4], "without a memory limit the halves join again"
    room[0] = 2
    scheduler.split()
    assert scheduler.next_batch() == tasks[:2]
    for task in tasks:
        scheduler.remove(task)
    assert (len(scheduler), scheduler.next_batch()) == (0, [])


def test_a_size_without_memory_does_not_block_the_others() -> None:
    scheduler = make_scheduler(fits_memory=lambda tasks: tasks[0].bucket_key != "large")
    large, small = add(scheduler, [Task(key="large"), Task()])
    assert scheduler.next_batch() == [small]
    scheduler.remove(small)
    assert scheduler.next_batch() == []
    assert len(scheduler) == 1
    assert list(scheduler) == [large]


def test_it_counts_running_and_waiting_tasks_of_every_bucket() -> None:
    scheduler = make_scheduler(rows_limit=4)
    assert (len(scheduler), scheduler.running) == (0, 0)
    small, large = add(scheduler, [Task() for _ in range(3)]), add(scheduler, [Task(key="large") for _ in range(5)])
    scheduler.next_batch()
    assert (len(scheduler), scheduler.running) == (8, 2)
    scheduler.record_time(1.0)
    scheduler.next_batch()
    assert (len(scheduler), scheduler.running) == (8, 4)
    assert sorted(map(id, scheduler)) == sorted(map(id, [*small, *large]))


@pytest.mark.parametrize(("count", "kept"), [(2, 1), (3, 2), (4, 2), (5, 3), (7, 4)])
def test_a_split_preempts_the_later_half_which_runs_first_when_there_is_room(count: int, kept: int) -> None:
    scheduler = make_scheduler(rows_limit=64)
    tasks = add(scheduler, [Task(rows=1) for _ in range(count)])
    assert scheduler.next_batch() == tasks
    room = [False]
    scheduler._fits_memory = lambda batch: len(batch) <= kept or room[0]
    scheduler.split()
    assert scheduler.running == kept
    assert scheduler.next_batch() == tasks[:kept]
    late = add(scheduler, [Task(rows=1)])
    room[0] = True
    assert scheduler.next_batch() == [*tasks, *late]


def test_a_split_without_a_batch_changes_nothing() -> None:
    scheduler = make_scheduler()
    scheduler.split()
    scheduler.record_time(1.0)
    tasks = add(scheduler, [Task()])
    assert scheduler.next_batch() == tasks


def test_one_task_after_the_other_is_preempted_until_the_rest_fits() -> None:
    limit = [4]
    scheduler = make_scheduler(rows_limit=64, fits_memory=lambda batch: len(batch) <= limit[0])
    tasks = add(scheduler, [Task(rows=1) for _ in range(4)])
    assert scheduler.next_batch() == tasks
    for limit[0] in (3, 1):
        assert scheduler.next_batch() == tasks[: limit[0]]
        assert len(scheduler) == 4
    limit[0] = 0
    assert scheduler.next_batch() == []
    assert scheduler.running == 1  # the last one is never preempted: its completed steps wait for memory


def test_a_new_bucket_starts_level_with_the_one_that_used_least() -> None:
    scheduler = make_scheduler()
    [first] = add(scheduler, [Task(key="a")])
    for _ in range(3):
        assert scheduler.next_batch() == [first]
        scheduler.record_time(1.0)
    [second] = add(scheduler, [Task(key="b")])
    served = []
    for _ in range(6):
        [task] = scheduler.next_batch()
        served.append(task)
        scheduler.record_time(1.0)
    assert served.count(first) == served.count(second) == 3
