"""The `colour` style: filled shapes with soft shading, a darker brushed outline and a gentle wash behind."""

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from atelier_trainer.synthetic.scenes.backdrop import backdrop_of
from atelier_trainer.synthetic.scenes.geometry import Points, resampled, ribbon
from atelier_trainer.synthetic.scenes.palette import RGB, lit, mix, resolve, shadowed
from atelier_trainer.synthetic.scenes.scene import Scene, Thing
from atelier_trainer.synthetic.scenes.shapes.parts import Part
from atelier_trainer.synthetic.scenes.shapes.shape import placed
from atelier_trainer.synthetic.scenes.styles.texture import field, slanted

_OVER = 2  # drawn this many times larger and reduced, which smooths every edge
_OUTLINE = 0.0085  # usual width of an outline, share of the canvas' side


def paint(scene: Scene, size: int = 256) -> Image.Image:
    """Paint a scene in colour.

    Args:
        scene: what to paint.
        size: side of the image in pixels.

    Returns:
        RGB, `size` by `size`. The same scene and size always give the same pixels.
    """
    canvas = _Canvas(size * _OVER, np.random.default_rng([scene.seed, 3]))
    _backdrop(canvas, scene)
    for thing in scene.things:
        for part in placed(thing, canvas.side):
            _part(canvas, part, thing)
    return _brushed(canvas, size)


class _Canvas:
    """What is painted on: the image, and a mask of the things, 0 or 255."""

    def __init__(self, side: int, rng: Generator) -> None:
        self.side, self.rng = side, rng
        self.image, self.things = Image.new("RGB", (side, side)), Image.new("L", (side, side), 0)
        self.draw, self.cover = ImageDraw.Draw(self.image), ImageDraw.Draw(self.things)


def _flat(curve: Points) -> list[float]:
    return curve.ravel().tolist()


def _backdrop(canvas: _Canvas, scene: Scene) -> None:
    side, draw = canvas.side, canvas.draw
    layout = backdrop_of(scene, side)
    for band in layout.bands:
        if band.edge is None:
            # A wash is paler near the horizon.
            rows = np.linspace(0.0, 0.28, 16)[:, None, None]
            ramp = np.array(band.colour) * (1 - rows) + np.array((255, 250, 240)) * rows  # [16, 1, 3]
            wash = Image.fromarray(ramp.round().astype(np.uint8))
            canvas.image.paste(wash.resize((side, side), Image.Resampling.BILINEAR))
        else:
            shape = [*_flat(band.edge), side, side, 0, side]
            draw.polygon(shape, fill=band.colour)
    low = layout.bands[-1].colour
    ink = (226, 226, 206) if scene.ground == "night" else shadowed(low, 0.16)
    for mark in layout.marks:
        draw.line(_flat(mark), fill=ink, width=max(1, round(0.006 * side)))


def _part(canvas: _Canvas, part: Part, thing: Thing) -> None:
    colour = resolve(part.fill or "ink", thing.colour)
    if not part.closed:
        _stroke(canvas, part, colour if part.fill else resolve("ink", thing.colour), thing)
        return
    shape = _flat(part.points)
    canvas.cover.polygon(shape, fill=255)
    if part.shade == "flat":
        canvas.draw.polygon(shape, fill=colour)
    else:
        _shaded(canvas.image, part, colour)
    if part.weight > 0:
        _stroke(canvas, part, mix(shadowed(colour, 0.5), (96, 62, 56), 0.38), thing)


def _shaded(image: Image.Image, part: Part, colour: RGB) -> None:
    """Fill a part with a gradient lit from the upper left."""
    low = np.floor(part.points.min(axis=0)).astype(int)
    wide, high = (int(v) for v in np.ceil(part.points.max(axis=0)).astype(int) - low + 1)
    x, y = np.meshgrid(np.linspace(0, 1, 10), np.linspace(0, 1, 10))
    if part.shade == "round":
        dark = np.clip(np.hypot(x - 0.36, y - 0.3) / 0.82, 0.0, 1.0) ** 1.5
    elif part.shade == "down":
        dark = 0.15 + 0.75 * y
    else:
        dark = 0.1 + 0.65 * x + 0.2 * y
    bright, deep = np.array(lit(colour, 0.2)), np.array(shadowed(colour, 0.32))
    ramp = bright + (deep - bright) * dark[:, :, None]  # [10, 10, 3]
    light = Image.fromarray(ramp.round().astype(np.uint8)).resize((wide, high), Image.Resampling.BILINEAR)
    mask = Image.new("L", (wide, high), 0)
    ImageDraw.Draw(mask).polygon(_flat(part.points - low), fill=255)
    image.paste(light, (int(low[0]), int(low[1])), mask)


def _stroke(canvas: _Canvas, part: Part, ink: RGB, thing: Thing) -> None:
    """Draw an outline or a line as a brush does: thicker here, thinner there."""
    path = resampled(part.points, 0.012 * canvas.side, part.closed)
    # Small things have finer outlines, but never too fine to be seen at 128 pixels.
    width = _OUTLINE * canvas.side * part.weight * (0.55 + 0.6 * thing.size)
    swell = 1.0 + 0.2 * np.sin(
        np.linspace(0, 2 * np.pi * max(1, round(len(path) / 14)), len(path)) + canvas.rng.uniform(0, 6.28)
    )
    shape = _flat(ribbon(path, width * swell))
    canvas.draw.polygon(shape, fill=ink)
    canvas.cover.polygon(shape, fill=255)


def _brushed(canvas: _Canvas, size: int) -> Image.Image:
    """Reduce to the final size and lay a low brush texture over it: level on the ground, slanted on the things."""
    small = np.asarray(canvas.image.reduce(_OVER), dtype=np.float32)  # [size, size, 3], 0 to 255
    cover = np.asarray(canvas.things.reduce(_OVER), dtype=np.float32) * (1 / 255)  # [size, size], 0 to 1
    wash = 2.6 * field(canvas.rng, size, 5, 18) + 2.2 * field(canvas.rng, size, 5, 5)
    strokes = 4.2 * slanted(canvas.rng, size) + 2.0 * field(canvas.rng, size, 7, 7)
    small = small + (wash + (strokes - wash) * cover)[:, :, None]
    return Image.fromarray(np.clip(small, 0, 255).astype(np.uint8))
