"""The vocabulary that shapes are written in: parts, and proportions that vary from one thing to the next."""

from dataclasses import dataclass

from numpy.random import Generator

from atelier_trainer.synthetic.scenes.geometry import Points


@dataclass(frozen=True)
class Part:
    """One outline of a thing.

    Attributes:
        points: [n, 2], unit coordinates (pixels once placed).
        closed: a polygon; otherwise an open line.
        fill: "main", "dark", "light" or a name of the palette; an open line is drawn in that colour, None being ink.
        weight: width of its outline, 1 being usual and 0 none.
        shade: how light falls on it: "flat", "round" (a ball), "side" (darker to the right), "down" (darker below).
    """

    points: Points
    closed: bool
    fill: str | None
    weight: float
    shade: str


def filled(points: Points, fill: str, shade: str = "side", weight: float = 1.0) -> Part:
    """A closed and filled part."""
    return Part(points, True, fill, weight, shade)


def line(points: Points, weight: float = 0.8) -> Part:
    """An open line."""
    return Part(points, False, None, weight, "flat")


def dot(points: Points, fill: str = "ink") -> Part:
    """A small filled part with no outline of its own: an eye, a button, a spot."""
    return Part(points, True, fill, 0.0, "flat")


class Proportions:
    """Chance as a shape uses it: lengths near a usual one, and choices."""

    def __init__(self, rng: Generator) -> None:
        self._rng = rng

    def near(self, usual: float, share: float = 0.12) -> float:
        """A length within `share` of the usual one, either way."""
        return usual * (1.0 + share * float(self._rng.uniform(-1.0, 1.0)))

    def shift(self, spread: float) -> float:
        """An offset between -spread and spread."""
        return float(self._rng.uniform(-spread, spread))

    def whole(self, least: int, most: int) -> int:
        """A whole number, both ends included."""
        return int(self._rng.integers(least, most + 1))

    def chance(self, share: float) -> bool:
        """True this often."""
        return bool(self._rng.random() < share)
