"""Captions of scenes: short English sentences in a closed vocabulary, all of them true."""

import re
from collections.abc import Sequence

from numpy.random import Generator

from atelier_trainer.synthetic.scenes.backdrop import STRIP
from atelier_trainer.synthetic.scenes.scene import COLOURS, FLOATING, KINDS, Scene, Thing

MOST_WORDS = 24

_FRAMES = (
    "{}",
    "{}",
    "{}",
    "{}",
    "a drawing of {}",
    "a picture of {}",
    "there is {}",
    "here is {}",
    "this is {}",
    "we see {}",
    "you can see {}",
)
_SIDEWAYS = (
    "{left} to the left of {right}",
    "{left} left of {right}",
    "{right} to the right of {left}",
    "{right} right of {left}",
    "{left} next to {right}",
    "{right} beside {left}",
    "{left} on the left and {right} on the right",
)
_UPRIGHT = (
    "{high} above {low}",
    "{high} over {low}",
    "{low} under {high}",
    "{low} below {high}",
    "{high} at the top and {low} at the bottom",
)
_PAIR = ("{first} and {second}", "{first} with {second}")
_TRIO = ("{first}, {second} and {third}", "{first} with {second} and {third}")
_AND_ALSO = ("{third}, and {pair}", "{pair}, and also {third}")
_TWO_LOW = ("{high} above {left} and {right}", "{left} and {right} under {high}")
_TWO_HIGH = ("{left} and {right} above {low}", "{low} under {left} and {right}")
_ROW = ("{middle} between {left} and {right}", "{left}, {middle} and {right} in a row")

_SHIRT = ("{a} person in {colour}", "{a} person in a {colour} shirt", "{a} person with a {colour} shirt")
_COLOURED = ("{a} {colour} {kind}", "{a} {colour} {kind}", "{a} {colour} {kind}", "one {colour} {kind}")
_BARE = ("{a} {kind}", "{a} {kind}", "one {kind}")
_LARGE = ("big", "large")
_TRAITS = {"giraffe": "tall", "apple": "round", "sun": "round", "snowman": "round", "balloon": "round"}

_BEHIND: dict[str, tuple[str, ...]] = {
    "plain": ("on a plain background",),
    "meadow": ("by a meadow", "with grass behind"),
    "beach": ("by the sea", "with sand and sea", "at the beach"),
    "snow": ("on a snowy day", "with snow behind"),
    "sea": ("by the sea", "at the sea", "with the sea behind"),
    "night": ("at night", "in the night"),
}
"""Phrases that are true wherever the things are."""
_STANDING: dict[str, tuple[str, ...]] = {
    "meadow": ("on a meadow", "in a meadow", "in the grass"),
    "beach": ("on the beach", "on the sand"),
    "snow": ("in the snow",),
}
"""Phrases that are true only when every thing stands on the ground."""
_GROUND_SHARE = {"plain": 0.08}
_GROUND_SHARE_USUAL = 0.45

# Shares of the canvas: a claim about places is made only where nobody would dispute it.
_CLEARLY_APART, _NEARLY_LEVEL = 0.22, 0.14


def caption(scene: Scene, rng: Generator) -> str:
    """Describe a scene.

    Every thing is named by its kind. Colours, places and the ground are named often, not always.

    Args:
        scene: what to describe.
        rng: the only source of chance.

    Returns:
        At most 24 lower-case words of `VOCABULARY`, with commas at most between them.
    """
    coloured = rng.random() < 0.8
    phrases = {thing: _phrase(thing, rng, coloured, alone=len(scene.things) == 1) for thing in scene.things}
    text = _placed(scene.things, phrases, rng)
    if rng.random() < _GROUND_SHARE.get(scene.ground, _GROUND_SHARE_USUAL):
        # A comma keeps "a cat under a star in the snow" from putting the star alone in the snow.
        text += (" " if len(scene.things) == 1 else ", ") + _pick(rng, _ground_phrases(scene))
    framed = _pick(rng, _FRAMES).format(text)
    return framed if len(framed.split()) <= MOST_WORDS else text


def _ground_phrases(scene: Scene) -> tuple[str, ...]:
    # On a beach the sand begins below a strip of water.
    level = scene.horizon + (STRIP if scene.ground == "beach" else 0.0)
    # The flattest things, cars and fish, reach little more than a quarter of their size below the middle.
    stands = all(thing.cy + 0.28 * thing.size > level and thing.kind not in FLOATING for thing in scene.things)
    return _BEHIND[scene.ground] + (_STANDING.get(scene.ground, ()) if stands else ())


def _pick(rng: Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _phrase(thing: Thing, rng: Generator, coloured: bool, alone: bool) -> str:
    if coloured and rng.random() < 0.9:
        options = _SHIRT if thing.kind == "person" else _COLOURED
        text = _pick(rng, options).format(a="{a}", colour=thing.colour, kind=thing.kind)
    else:
        text = _pick(rng, _BARE).format(a="{a}", kind=thing.kind)
    if rng.random() < 0.12:
        trait = _pick(rng, _LARGE) if alone else _TRAITS.get(thing.kind)
        if trait:
            text = re.sub(r"^(\{a\}|one) ", rf"\1 {trait} ", text)
    article = "an" if re.match(r"\{a\} [aeiou]", text) else "a"
    return text.format(a=article)


def _placed(things: Sequence[Thing], phrases: dict[Thing, str], rng: Generator) -> str:
    """Join the phrases, saying where the things are about two times in three."""
    if len(things) == 1:
        return phrases[things[0]]
    order = [things[int(i)] for i in rng.permutation(len(things))]
    said = rng.random() < 0.65
    if len(things) == 2:
        plain = _pick(rng, _PAIR).format(first=phrases[order[0]], second=phrases[order[1]])
        return _relation(order, phrases, rng) or plain if said else plain
    if said:
        text = _of_three(order, phrases, rng)
        if text:
            return text
    return _pick(rng, _TRIO).format(first=phrases[order[0]], second=phrases[order[1]], third=phrases[order[2]])


def _relation(pair: Sequence[Thing], phrases: dict[Thing, str], rng: Generator) -> str | None:
    """Say how two things stand to each other, or None when they stand aslant."""
    left, right = sorted(pair, key=lambda thing: thing.cx)
    high, low = sorted(pair, key=lambda thing: thing.cy)
    across, down = right.cx - left.cx, low.cy - high.cy
    if across >= _CLEARLY_APART and down <= _NEARLY_LEVEL:
        return _pick(rng, _SIDEWAYS).format(left=phrases[left], right=phrases[right])
    if down >= _CLEARLY_APART and across <= _NEARLY_LEVEL:
        return _pick(rng, _UPRIGHT).format(high=phrases[high], low=phrases[low])
    return None


def _of_three(order: Sequence[Thing], phrases: dict[Thing, str], rng: Generator) -> str | None:
    """Say how three things stand, when they form a row or a triangle."""
    a, b, c = sorted(order, key=lambda thing: thing.cy)
    if c.cy - a.cy <= _NEARLY_LEVEL:
        left, middle, right = sorted(order, key=lambda thing: thing.cx)
        return _pick(rng, _ROW).format(left=phrases[left], middle=phrases[middle], right=phrases[right])
    if b.cy - a.cy >= _CLEARLY_APART and c.cy - b.cy <= _NEARLY_LEVEL:
        alone, pair, options = a, (b, c), _TWO_LOW
    elif c.cy - b.cy >= _CLEARLY_APART and b.cy - a.cy <= _NEARLY_LEVEL:
        alone, pair, options = c, (a, b), _TWO_HIGH
    else:
        return None
    left, right = sorted(pair, key=lambda thing: thing.cx)
    said = _relation(pair, phrases, rng)
    if said and rng.random() < 0.5:
        return _pick(rng, _AND_ALSO).format(third=phrases[alone], pair=said)
    spots = {"high": phrases[alone], "low": phrases[alone], "left": phrases[left], "right": phrases[right]}
    return _pick(rng, options).format(**spots)


def _words() -> tuple[str, ...]:
    templates = (
        *(_FRAMES + _SIDEWAYS + _UPRIGHT + _PAIR + _TRIO + _AND_ALSO + _TWO_LOW + _TWO_HIGH + _ROW),
        *(_SHIRT + _COLOURED + _BARE + _LARGE),
        *_TRAITS.values(),
        *(phrase for table in (_BEHIND, _STANDING) for phrases in table.values() for phrase in phrases),
        *KINDS,
        *(colour for colours in COLOURS.values() for colour in colours),
        "a",
        "an",
    )
    return tuple(sorted({word for text in templates for word in re.findall(r"[a-z]+", re.sub(r"\{\w*\}", " ", text))}))


VOCABULARY: tuple[str, ...] = _words()
"""Every word that a caption can hold, in alphabetical order."""
