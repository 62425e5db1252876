"""The `sketch` style: grey pencil on slightly warm paper, uneven lines drawn twice, hatching for dark colours."""

from itertools import pairwise

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from atelier_trainer.synthetic.scenes.backdrop import backdrop_of
from atelier_trainer.synthetic.scenes.geometry import Points, inside_lines, points, resampled, ribbon
from atelier_trainer.synthetic.scenes.palette import luminance, resolve
from atelier_trainer.synthetic.scenes.scene import Scene, Thing
from atelier_trainer.synthetic.scenes.shapes.parts import Part
from atelier_trainer.synthetic.scenes.shapes.shape import placed
from atelier_trainer.synthetic.scenes.styles.texture import field, grain

_OVER = 2  # drawn this many times larger and reduced, which smooths every edge
_LINE = 0.0098  # usual width of a pencil line, share of the canvas' side
_STROKE = 0.45  # longest line drawn without lifting the pencil, share of the canvas' side
_SMALL = 0.2  # parts below this size, as a share of their thing, are toned evenly: a hatch would not show their shape
_CORNER = 0.7  # a turn sharper than this, in radians, ends a stroke and begins another
_PAPER = np.array((250.0, 247.0, 241.0), dtype=np.float32)
_GRAPHITE = np.array((44.0, 43.0, 44.0), dtype=np.float32)


class _Sheet:
    """Three layers of graphite, 0 to 255 each, that add up: shading, and two passes of lines."""

    def __init__(self, side: int, rng: Generator) -> None:
        self.side, self.rng = side, rng
        self.layers = [Image.new("L", (side, side), 0) for _ in range(3)]
        self.hatch, *self.passes = (ImageDraw.Draw(layer) for layer in self.layers)

    def clear(self, polygon: Points) -> None:
        """Leave bare paper inside a polygon: what is drawn next stands in front."""
        shape = polygon.ravel().tolist()
        for draw in (self.hatch, *self.passes):
            draw.polygon(shape, fill=0)


def sketch(scene: Scene, size: int = 256) -> Image.Image:
    """Draw a scene in pencil.

    Args:
        scene: what to draw.
        size: side of the image in pixels.

    Returns:
        RGB, `size` by `size`, nearly grey. The same scene and size always give the same pixels.
    """
    rng = np.random.default_rng([scene.seed, 4])
    side = size * _OVER
    sheet = _Sheet(side, rng)
    _backdrop(sheet, scene)
    for thing in scene.things:
        # A draughtsman hatches a whole thing in one direction.
        angle = float(rng.uniform(-1.15, -0.6))
        for part in placed(thing, side):
            _part(sheet, part, thing, angle)
    return _on_paper(sheet, size)


def _backdrop(sheet: _Sheet, scene: Scene) -> None:
    """The horizon as a light line, and few loose strokes below it."""
    side = sheet.side
    layout = backdrop_of(scene, side)
    if scene.ground == "night":
        edge = layout.bands[1].edge
        assert edge is not None, "every band but the topmost has an edge"
        sky = np.concatenate([points((0, 0), (side, 0)), edge[::-1]])
        _hatch(sheet, sky, -0.45, 0.021 * side, 58)
    for band in layout.bands[1:]:
        assert band.edge is not None, "every band but the topmost has an edge"
        _line(sheet, band.edge, False, 0.75, 105)
        for _ in range(5):
            x, y = sheet.rng.uniform(-0.05, 0.85) * side, float(sheet.rng.uniform(0.03, 0.1)) * side
            at = np.interp(x, band.edge[:, 0], band.edge[:, 1]) + y
            end = (x + sheet.rng.uniform(0.1, 0.25) * side, at - 0.01 * side)
            _line(sheet, points((x, at), end), False, 0.7, 62)
    for mark in layout.marks:
        _line(sheet, mark, False, 0.75, 100)


def _part(sheet: _Sheet, part: Part, thing: Thing, angle: float) -> None:
    scale = 0.6 + 0.55 * thing.size
    if not part.closed:
        _line(sheet, part.points, False, min(part.weight, 2.2) * scale, 185)
        return
    sheet.clear(part.points)
    light = luminance(resolve(part.fill or "white", thing.colour))
    if part.weight == 0 and part.fill == "light":
        return  # a highlight is bare paper
    extent = float(np.ptp(part.points, axis=0).max())
    if part.weight == 0 and extent < _SMALL * thing.size * sheet.side:
        sheet.hatch.polygon(part.points.ravel().tolist(), fill=int(265 * max(0.0, 0.96 - light)))
    else:
        _tone(sheet, part.points, light, angle, scale)
    if part.weight > 0:
        _line(sheet, part.points, True, part.weight * scale, 190)


def _tone(sheet: _Sheet, polygon: Points, light: float, angle: float, scale: float) -> None:
    """Hatch by brightness: nothing for white, wide apart for pale colours, crossed for dark ones."""
    if light > 0.84:
        return
    dark = min(1.0, (0.95 - light) / 0.7)
    spacing = sheet.side * scale * (0.040 - 0.021 * dark)
    grey = int(75 + 85 * dark)
    _hatch(sheet, polygon, angle, spacing, grey)
    if light < 0.5:
        _hatch(sheet, polygon, angle + 1.25, spacing * 1.25, int(grey * 0.85))


def _hatch(sheet: _Sheet, polygon: Points, angle: float, spacing: float, grey: int) -> None:
    """Parallel strokes inside a polygon, a little too long or too short."""
    side = sheet.side
    ends = inside_lines(polygon, angle + sheet.rng.uniform(-0.06, 0.06), spacing, float(sheet.rng.random()))
    if not len(ends):
        return
    along = ends[:, 1] - ends[:, 0]
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1.0)[:, None]
    slack = np.minimum(np.maximum(sheet.rng.uniform(-0.008, 0.011, (len(ends), 2)) * side / length, -0.15), 0.15)
    ends[:, 0] -= along * slack[:, :1]
    ends[:, 1] += along * slack[:, 1:]
    ends += sheet.rng.normal(0.0, 0.12 * spacing, ends.shape)
    greys = np.minimum(np.maximum(grey + sheet.rng.normal(0.0, 20.0, len(ends)), 40), 220).astype(int)
    width = max(2, round(0.0068 * side))
    for segment, tone in zip(ends.reshape(-1, 4).tolist(), greys.tolist(), strict=True):
        sheet.hatch.line(segment, fill=tone, width=width)


def _line(sheet: _Sheet, curve: Points, closed: bool, weight: float, grey: int) -> None:
    """Draw a curve twice, broken at its corners, each stroke a little off and a little too long."""
    side = sheet.side
    least = 1.7 * _OVER * side / 512
    for stroke in _strokes(curve, closed, side):
        even = resampled(stroke, 0.022 * side, False)
        n = len(even)
        t = np.arange(n) / (n - 1)
        bow = np.sin(np.pi * t)
        reach = 0.45 if n > 3 else 0.12
        for number, draw in enumerate(sheet.passes):
            chance = sheet.rng.standard_normal(7) * (0.0042 if number else 0.0020) * side
            over = sheet.rng.random(4)
            # Both ends are moved and the rest follows, bowed a little: a hand errs slowly.
            path = even.copy()
            path[0] -= (even[1] - even[0]) * (reach * over[0])
            path[-1] += (even[-1] - even[-2]) * (reach * over[1])
            path[:, 0] += chance[0] + (chance[1] - chance[0]) * t + chance[2] * bow
            path[:, 1] += chance[3] + (chance[4] - chance[3]) * t + chance[5] * bow
            press = 0.72 + 0.4 * bow + 0.16 * np.sin(t * (5 + 9 * over[2]) + 6 * over[3])
            width = np.maximum(_LINE * side * weight * press * (0.8 if number else 1.0), least)
            tone = grey * (0.70 if number else 1.0) + sheet.rng.normal(0.0, 20.0)
            draw.polygon(ribbon(path, width).ravel().tolist(), fill=int(min(max(tone, 45), 235)))


def _strokes(curve: Points, closed: bool, side: int) -> list[Points]:
    """Cut a curve at its corners, and long runs into pieces, as a hand lifts the pencil."""
    path = np.concatenate([curve, curve[:1]]) if closed else curve
    leg = path[1:] - path[:-1]
    heading = np.arctan2(leg[:, 1], leg[:, 0])
    turn = np.abs((heading[1:] - heading[:-1] + np.pi) % (2 * np.pi) - np.pi)
    along = [0.0, *np.cumsum(np.hypot(leg[:, 0], leg[:, 1])).tolist()]
    cuts = [0, *(np.flatnonzero(turn > _CORNER) + 1).tolist(), len(path) - 1]
    strokes = []
    for first, last in pairwise(cuts):
        pieces = max(1, round((along[last] - along[first]) / (_STROKE * side)))
        bounds = [first + (last - first) * k // pieces for k in range(pieces + 1)]
        strokes += [path[a : b + 1] for a, b in pairwise(bounds) if b > a]
    return strokes


def _on_paper(sheet: _Sheet, size: int) -> Image.Image:
    """Add the layers up and let the paper's tooth catch the graphite unevenly."""
    bare = np.ones((size, size), dtype=np.float32)
    for layer in sheet.layers:
        bare *= 1.0 - np.asarray(layer.reduce(_OVER), dtype=np.float32) * (1 / 255)
    tooth = grain(size)
    graphite = (1.0 - bare) * (1.0 + 0.10 * tooth + 0.10 * field(sheet.rng, size, 10, 10))
    graphite = np.clip(graphite + 0.006 * tooth, 0.0, 1.0)[:, :, None]
    return Image.fromarray((_PAPER + (_GRAPHITE - _PAPER) * graphite).clip(0, 255).round().astype(np.uint8))
