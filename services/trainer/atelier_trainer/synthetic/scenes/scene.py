"""A scene: one to three big, distinct things, their layout, and the ground behind them.

Coordinates are shares of the canvas' side: x grows to the right, y grows downwards, (0.5, 0.5) is the middle.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

COLOURS: dict[str, tuple[str, ...]] = {
    "house": ("red", "yellow", "blue", "white", "pink"),
    "tree": ("green", "green", "green", "orange"),
    "sun": ("yellow", "orange"),
    "boat": ("red", "blue", "brown", "green"),
    "fish": ("orange", "blue", "red", "purple"),
    "cat": ("grey", "orange", "black", "brown", "white"),
    "bird": ("blue", "red", "yellow", "pink"),
    "car": ("red", "blue", "green", "yellow", "purple"),
    "flower": ("pink", "purple", "red", "white"),
    "mountain": ("grey", "blue", "purple"),
    "person": ("red", "blue", "green", "yellow"),
    "giraffe": ("yellow",),
    "umbrella": ("red", "purple", "blue", "pink"),
    "balloon": ("red", "orange", "purple", "blue"),
    "mushroom": ("red", "brown", "orange"),
    "star": ("yellow", "orange", "pink"),
    "apple": ("red", "green"),
    "snowman": ("white",),
}
"""Colours that suit each kind; a colour given twice is drawn twice as often."""

KINDS: tuple[str, ...] = tuple(COLOURS)
"""Everything that can be drawn, in a fixed order."""

FLOATING = frozenset({"sun", "bird", "balloon", "star"})
"""Kinds at home in the air: they take the upper place when one thing is above another."""

GROUNDS: tuple[str, ...] = ("plain", "meadow", "beach", "snow", "sea", "night")
_GROUND_SHARES = (0.40, 0.17, 0.12, 0.11, 0.12, 0.08)
_COUNT_SHARES = (0.50, 0.35, 0.15)
MOST_THINGS = len(_COUNT_SHARES)


@dataclass(frozen=True)
class Thing:
    """One drawn thing.

    Attributes:
        kind: a name in `KINDS`.
        colour: its own colour, one of `COLOURS[kind]`.
        cx: centre, share of the canvas' width.
        cy: centre, share of the canvas' height.
        size: side of the square that the thing fits in, share of the canvas' side.
        flip: mirrored left to right.
        seed: decides its proportions, so that no two of a kind are alike.
    """

    kind: str
    colour: str
    cx: float
    cy: float
    size: float
    flip: bool
    seed: int


@dataclass(frozen=True)
class Scene:
    """Things in front of a ground.

    Attributes:
        things: one to three things of distinct kinds, in no particular order.
        ground: a name in `GROUNDS`.
        horizon: height at which ground and sky meet, share of the canvas from its top; unused when plain.
        seed: decides the tint, the horizon's waves and every brush or pencil stroke.
    """

    things: tuple[Thing, ...]
    ground: str
    horizon: float
    seed: int

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the things, in the order of `things`."""
        return tuple(thing.kind for thing in self.things)


def sample_scene(rng: Generator, kinds: Sequence[str] = KINDS, count: int | None = None, plain: bool = False) -> Scene:
    """Draw a random scene.

    Args:
        rng: the only source of chance.
        kinds: the kinds to choose from.
        count: how many things; None draws one to three, fewer more often.
        plain: True always gives the plain ground.

    Raises:
        ValueError: a kind is unknown or given twice, none is given, or `count` cannot be met.
    """
    _check(kinds, count)
    if count is None:
        count = min(int(rng.choice(MOST_THINGS, p=_COUNT_SHARES)) + 1, len(kinds))
    chosen = [kinds[int(i)] for i in rng.choice(len(kinds), size=count, replace=False)]
    places = _places(rng, count)
    if count > 1 and max(y for _, y, _ in places) - min(y for _, y, _ in places) > 0.3:
        # What flies goes above what stands: both sorts are stable, so everything else stays random.
        places.sort(key=lambda place: place[1])
        chosen.sort(key=lambda kind: kind not in FLOATING)
    things = tuple(_thing(rng, kind, *place) for kind, place in zip(chosen, places, strict=True))
    ground = "plain" if plain else _ground(rng, chosen)
    horizon = float(rng.uniform(0.64, 0.74))
    return Scene(things=things, ground=ground, horizon=horizon, seed=_seed(rng))


def _check(kinds: Sequence[str], count: int | None) -> None:
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ValueError(f"kinds must be among {', '.join(KINDS)}; received {', '.join(unknown)}: remove or correct them")
    if not kinds or len(set(kinds)) != len(kinds):
        raise ValueError(f"kinds must name at least one kind and each only once; received {list(kinds)}: correct the list")
    most = min(MOST_THINGS, len(kinds))
    if count is not None and not 1 <= count <= most:
        raise ValueError(
            f"count must be between 1 and {most} for {len(kinds)} kinds; received {count}: "
            "choose a count in that range, or None for a random one"
        )


def _places(rng: Generator, count: int) -> list[tuple[float, float, float]]:
    """Choose (cx, cy, size) for each thing so that all are big and none hides another."""

    def near(middle: float, spread: float = 0.02) -> float:
        return float(rng.uniform(middle - spread, middle + spread))

    if count == 1:
        size = near(0.69, 0.06)
        spread = min(0.05, 0.49 - size / 2)
        return [(near(0.5, spread), near(0.5, spread), size)]
    if count == 2:
        if rng.random() < 0.55:
            row = near(0.52, 0.06)
            return [(near(x), row + near(0.0, 0.03), near(0.455, 0.03)) for x in (0.25, 0.75)]
        column = near(0.5, 0.1)
        return [(column + near(0.0, 0.03), near(y), near(0.46, 0.03)) for y in (0.26, 0.75)]
    layout = rng.random()
    if layout < 0.4:
        return [(near(0.5, 0.05), near(0.25), near(0.38)), *((near(x), near(0.74), near(0.38)) for x in (0.25, 0.75))]
    if layout < 0.75:
        return [*((near(x), near(0.26), near(0.38)) for x in (0.25, 0.75)), (near(0.5, 0.05), near(0.75), near(0.38))]
    row = near(0.52, 0.06)
    return [(near(x, 0.005), row + near(0.0, 0.03), near(0.323, 0.003)) for x in (0.17, 0.5, 0.83)]


def _thing(rng: Generator, kind: str, cx: float, cy: float, size: float) -> Thing:
    colour = COLOURS[kind][int(rng.integers(len(COLOURS[kind])))]
    return Thing(kind, colour, cx, cy, size, flip=bool(rng.random() < 0.5), seed=_seed(rng))


def _ground(rng: Generator, chosen: Sequence[str]) -> str:
    ground = GROUNDS[int(rng.choice(len(GROUNDS), p=_GROUND_SHARES))]
    # A sun at night would make one of two true captions odd.
    return "meadow" if ground == "night" and "sun" in chosen else ground


def _seed(rng: Generator) -> int:
    return int(rng.integers(2**31))
