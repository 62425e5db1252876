"""Whose turn it is: which drawings share the next step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Schedulable(Protocol):
    """What is known of a drawing here.

    Attributes:
        sender: drawings of one request have the same.
    """

    sender: Hashable

    @property
    def key(self) -> Hashable:
        """Drawings of the same key can share a step."""
        ...

    @property
    def rows(self) -> int:
        """Rows of the next step."""
        ...

    @property
    def parts(self) -> Mapping[str, int]:
        """Rank by adapter."""
        ...


S = TypeVar("S", bound=Schedulable)


@dataclass
class Bucket(Generic[S]):
    """Drawings of one key: those that take steps, and those that wait to join them, in the order of arrival.

    Attributes:
        begun: of those that wait, which had joined before.
    """

    drawing: list[S] = field(default_factory=list)
    waiting: list[S] = field(default_factory=list)
    begun: list[S] = field(default_factory=list)
    served_s: float = 0.0


class BatchScheduler(Generic[S]):
    """Lines take turns so that each gets the same time; within a line all drawings that fit take every step together.

    A drawing joins when its rows fit beside those that draw, and stays until its end, so that none starves. Among the waiting,
    the one whose sender has the fewest drawings under way joins first, then the one that came first.
    """

    def __init__(
        self, *, rows_limit: int, rank_limit: int, enough_memory: Callable[[Sequence[S]], bool] = lambda seats: True
    ) -> None:
        """The limits hold for one step; a drawing that breaks one of the first two by itself draws alone.

        Args:
            rows_limit: rows of one step.
            rank_limit: sum of the ranks of its adapters.
            enough_memory: whether a step of these drawings of one key fits now.
        """
        self._rows_limit, self._rank_limit, self._enough_memory = rows_limit, rank_limit, enough_memory
        self._lines: dict[Hashable, Bucket[S]] = {}
        self._now: Bucket[S] | None = None

    def __len__(self) -> int:
        return sum(len(line.drawing) + len(line.waiting) for line in self._lines.values())

    def __iter__(self) -> Iterator[S]:
        for line in self._lines.values():
            yield from line.drawing
            yield from line.waiting

    @property
    def drawing(self) -> int:
        """Drawings that take steps."""
        return sum(len(line.drawing) for line in self._lines.values())

    def add(self, seat: S) -> None:
        """Puts a drawing at the end of its line. A line that was empty starts level with the one served least."""
        if seat.key not in self._lines:
            self._lines[seat.key] = Bucket(served_s=min((line.served_s for line in self._lines.values()), default=0.0))
        self._lines[seat.key].waiting.append(seat)

    def remove(self, seat: S) -> None:
        """Takes it out, wherever it is."""
        line = self._lines.get(seat.key, Bucket())
        for seats in (line.drawing, line.waiting, line.begun):
            if seat in seats:
                seats.remove(seat)
        if not line.drawing and not line.waiting:
            self._lines.pop(seat.key, None)

    def next(self) -> list[S]:
        """The drawings of the next step, oldest first; empty when there are none, or memory for none."""
        for line in sorted(self._lines.values(), key=lambda line: line.served_s):
            while len(line.drawing) > 1 and not self._enough_memory(line.drawing):
                self._put_back(line, 1)
            self._join(line)
            if line.drawing and self._enough_memory(line.drawing):
                self._now = line
                return list(line.drawing)
        return []

    def split(self) -> None:
        """The last step failed for want of memory: the later half of its drawings waits, with the steps that it has taken."""
        if self._now:
            self._put_back(self._now, len(self._now.drawing) // 2)

    def spent(self, seconds: float) -> None:
        """How long that step took."""
        if self._now:
            self._now.served_s += seconds

    def _join(self, line: Bucket[S]) -> None:
        under_way = Counter(seat.sender for other in self._lines.values() for seat in other.drawing)
        while line.waiting:
            # of equals the first; one that was put back has waited longest
            chosen = min(line.waiting, key=lambda seat: (seat not in line.begun, under_way[seat.sender]))
            if line.drawing and not self._fits(line.drawing, chosen):
                return
            line.waiting.remove(chosen)
            if chosen in line.begun:
                line.begun.remove(chosen)
            line.drawing.append(chosen)
            under_way[chosen.sender] += 1

    def _fits(self, drawing: list[S], seat: S) -> bool:
        rows = sum(other.rows for other in drawing) + seat.rows
        ranks = {part: rank for other in (*drawing, seat) for part, rank in other.parts.items()}
        if rows > self._rows_limit or sum(ranks.values()) > self._rank_limit:
            return False
        return self._enough_memory([*drawing, seat])

    def _put_back(self, line: Bucket[S], count: int) -> None:
        seats = line.drawing[len(line.drawing) - count :]
        del line.drawing[len(line.drawing) - count :]
        line.waiting[:0] = seats
        line.begun += seats
