"""Fairness and packing, without threads."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from atelier_infer.engine.batch_scheduler import BatchScheduler
from hypothesis import given
from hypothesis import strategies as st


@dataclass(eq=False)
class Schedulable:
    sender: object = None
    key: object = "size"
    rows: int = 2
    parts: dict[str, int] = field(default_factory=dict)


def turns(rows_limit: int = 8, rank_limit: int = 64) -> BatchScheduler[Schedulable]:
    return BatchScheduler(rows_limit=rows_limit, rank_limit=rank_limit)


def test_nobody_no_turn():
    assert turns().next() == []


def test_those_of_one_size_share_a_step_up_to_the_rows():
    line, seats = turns(rows_limit=5), [Schedulable() for _ in range(3)]
    for seat in seats:
        line.add(seat)
    assert line.next() == seats[:2]
    line.remove(seats[0])
    assert line.next() == seats[1:]


def test_rows_that_guidance_frees_are_used():
    line, seats = turns(rows_limit=4), [Schedulable() for _ in range(3)]
    for seat in seats:
        line.add(seat)
    assert line.next() == seats[:2]
    for seat in seats[:2]:
        seat.rows = 1
    assert line.next() == seats


def test_ranks_are_counted_once_per_adapter():
    line = turns(rank_limit=20)
    same = [Schedulable(parts={"a": 16}), Schedulable(parts={"a": 16})]
    small, large = Schedulable(parts={"b": 4}), Schedulable(parts={"c": 16})
    for seat in (*same, small, large):
        line.add(seat)
    assert line.next() == [*same, small]


def test_one_that_breaks_a_limit_by_itself_draws_alone():
    line, seats = turns(rows_limit=1, rank_limit=1), [Schedulable(parts={"a": 9}), Schedulable()]
    for seat in seats:
        line.add(seat)
    assert line.next() == seats[:1]


def test_sizes_get_the_same_time_whatever_their_number():
    line = turns()
    for key, number in (("large", 4), ("small", 1)):
        for _ in range(number):
            line.add(Schedulable(key=key))
    cost, spent = {"large": 4.0, "small": 1.0}, Counter()
    for _ in range(100):
        key = line.next()[0].key
        spent[key] += cost[key]
        line.spent(cost[key])
    assert abs(spent["large"] - spent["small"]) <= max(cost.values())


def test_a_size_that_comes_late_neither_waits_nor_catches_up():
    line = turns()
    line.add(Schedulable(key="old"))
    for _ in range(50):
        line.next()
        line.spent(1.0)
    line.add(Schedulable(key="new"))
    order = []
    for _ in range(10):
        order.append(line.next()[0].key)
        line.spent(1.0)
    assert Counter(order) == {"old": 5, "new": 5}


def test_a_sender_of_many_does_not_keep_others_out():
    line = turns(rows_limit=4)
    many, other = [Schedulable("many") for _ in range(6)], Schedulable("other")
    for seat in (*many, other):
        line.add(seat)
    assert line.next() == [many[0], other]


def test_removing_one_that_is_not_there_changes_nothing():
    line, seat = turns(), Schedulable()
    line.remove(seat)
    line.add(seat)
    line.remove(seat)
    line.remove(seat)
    assert len(line) == 0


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 2), st.integers(0, 9), st.integers(1, 6)), max_size=25),
    st.integers(1, 8),
    st.integers(1, 20),
)
def test_everyone_ends_and_no_step_breaks_a_limit(wishes, rows_limit, rank_limit):
    line, left = turns(rows_limit, rank_limit), {}
    for number, (key, rows, rank, steps) in enumerate(wishes):
        seat = Schedulable(sender=number % 3, key=key, rows=rows, parts={f"adapter {number % 4} of rank {rank}": rank})
        left[seat] = steps
        line.add(seat)
    for _ in range(sum(left.values())):
        seats = line.next()
        if not seats:
            break
        if len(seats) > 1:
            assert sum(seat.rows for seat in seats) <= rows_limit
            ranks = {part: rank for seat in seats for part, rank in seat.parts.items()}
            assert sum(ranks.values()) <= rank_limit
        assert len({seat.key for seat in seats}) == 1
        line.spent(1.0)
        for seat in seats:
            left[seat] -= 1
            if not left[seat]:
                line.remove(seat)
    assert len(line) == 0
    assert not any(left.values())


@pytest.mark.parametrize("rows_limit", [2, 8])
def test_iterating_gives_everyone_once(rows_limit):
    line, seats = turns(rows_limit), [Schedulable(key=number % 2) for number in range(7)]
    for seat in seats:
        line.add(seat)
    line.next()
    assert sorted(map(id, line)) == sorted(map(id, seats))


def test_one_joins_as_long_as_there_is_the_memory_and_steps_back_when_there_is_less():
    room = [3]
    line, seats = (
        BatchScheduler(rows_limit=8, rank_limit=64, enough_memory=lambda some: len(some) <= room[0]),
        [Schedulable() for _ in range(5)],
    )
    for seat in seats:
        line.add(seat)
    assert line.next() == seats[:3]
    room[0] = 1
    assert line.next() == seats[:1]
    room[0] = 4
    assert line.next() == seats[:4], "who was put back comes before who has not begun"
    line.split()
    assert line.next() == seats[:4], "without a reason to stay apart they join again"
    room[0] = 2
    line.split()
    assert line.next() == seats[:2]
    for seat in seats:
        line.remove(seat)
    assert (len(line), line.next()) == (0, [])


def test_a_size_for_which_there_is_no_memory_does_not_hold_up_the_others():
    line, large, small = (
        BatchScheduler(rows_limit=8, rank_limit=64, enough_memory=lambda some: some[0].key != "large"),
        Schedulable(key="large"),
        Schedulable(),
    )
    line.add(large)
    line.add(small)
    assert line.next() == [small]
    line.remove(small)
    assert line.next() == []
    assert len(line) == 1
