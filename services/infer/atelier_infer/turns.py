"""Whose turn it is: which drawings share the next step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Seat(Protocol):
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


S = TypeVar("S", bound=Seat)


@dataclass
class Line(Generic[S]):
    """Drawings of one key: those that take steps, and those that wait to join them, in the order of arrival."""

    drawing: list[S] = field(default_factory=list)
    waiting: list[S] = field(default_factory=list)
    served_s: float = 0.0


class Turns(Generic[S]):
    """Lines take turns so that each gets the same time; within a line all drawings that fit take every step together.

    A drawing joins when its rows fit beside those that draw, and stays until its end, so that none starves. Among the waiting,
    the one whose sender has the fewest drawings under way joins first, then the one that came first.
    """

    def __init__(self, *, rows_limit: int, rank_limit: int) -> None:
        """The limits hold for one step; a drawing that breaks one by itself draws alone."""
        self._rows_limit, self._rank_limit = rows_limit, rank_limit
        self._lines: dict[Hashable, Line[S]] = {}
        self._now: Line[S] | None = None

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
            self._lines[seat.key] = Line(served_s=min((line.served_s for line in self._lines.values()), default=0.0))
        self._lines[seat.key].waiting.append(seat)

    def remove(self, seat: S) -> None:
        """Takes it out, wherever it is."""
        line = self._lines.get(seat.key, Line())
        for seats in (line.drawing, line.waiting):
            if seat in seats:
                seats.remove(seat)
        if not line.drawing and not line.waiting:
            self._lines.pop(seat.key, None)

    def next(self) -> list[S]:
        """The drawings of the next step, oldest first; empty when there are none."""
        if not self._lines:
            return []
        self._now = min(self._lines.values(), key=lambda line: line.served_s)
        self._join(self._now)
        return list(self._now.drawing)

    def spent(self, seconds: float) -> None:
        """How long that step took."""
        if self._now:
            self._now.served_s += seconds

    def _join(self, line: Line[S]) -> None:
        under_way = Counter(seat.sender for other in self._lines.values() for seat in other.drawing)
        while line.waiting:
            chosen = min(line.waiting, key=lambda seat: under_way[seat.sender])  # of equals the first
            if line.drawing and not self._fits(line.drawing, chosen):
                return
            line.waiting.remove(chosen)
            line.drawing.append(chosen)
            under_way[chosen.sender] += 1

    def _fits(self, drawing: list[S], seat: S) -> bool:
        rows = sum(other.rows for other in drawing) + seat.rows
        ranks = {part: rank for other in (*drawing, seat) for part, rank in other.parts.items()}
        return rows <= self._rows_limit and sum(ranks.values()) <= self._rank_limit
