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
    rng = np.random.default_rng([scene.seed, 3])
    side = size * _OVER
    canvas = Image.new("RGB", (side, side))
    things = Image.new("L", (side, side), 0)
    _backdrop(canvas, scene, side)
    draw, cover = ImageDraw.Draw(canvas), ImageDraw.Draw(things)
    for thing in scene.things:
        for part in placed(thing, side):
            _part(canvas, draw, cover, part, thing, side, rng)
    return _brushed(canvas, things, size, rng)


def _flat(curve: Points) -> list[float]:
    return curve.ravel().tolist()


def _backdrop(canvas: Image.Image, scene: Scene, side: int) -> None:
    layout = backdrop_of(scene, side)
    draw = ImageDraw.Draw(canvas)
    for band in layout.bands:
        if band.edge is None:
            # A wash is paler near the horizon.
            rows = np.linspace(0.0, 0.28, 16)[:, None, None]
            ramp = np.array(band.colour) * (1 - rows) + np.array((255, 250, 240)) * rows  # [16, 1, 3]
            canvas.paste(Image.fromarray(ramp.round().astype(np.uint8)).resize((side, side), Image.Resampling.BILINEAR))
        else:
            shape = [*_flat(band.edge), side, side, 0, side]
            draw.polygon(shape, fill=band.colour)
    low = layout.bands[-1].colour
    ink = (226, 226, 206) if scene.ground == "night" else shadowed(low, 0.16)
    for mark in layout.marks:
        draw.line(_flat(mark), fill=ink, width=max(1, round(0.006 * side)))


def _part(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    cover: ImageDraw.ImageDraw,
    part: Part,
    thing: Thing,
    side: int,
    rng: Generator,
) -> None:
    colour = resolve(part.fill or "ink", thing.colour)
    if not part.closed:
        _stroke(draw, cover, part, colour if part.fill else resolve("ink", thing.colour), thing, side, rng)
        return
    shape = _flat(part.points)
    cover.polygon(shape, fill=255)
    if part.shade == "flat":
        draw.polygon(shape, fill=colour)
    else:
        _shaded(canvas, part, colour)
    if part.weight > 0:
        _stroke(draw, cover, part, mix(shadowed(colour, 0.5), (96, 62, 56), 0.38), thing, side, rng)


def _shaded(canvas: Image.Image, part: Part, colour: RGB) -> None:
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
    canvas.paste(light, (int(low[0]), int(low[1])), mask)


def _stroke(
    draw: ImageDraw.ImageDraw,
    cover: ImageDraw.ImageDraw,
    part: Part,
    ink: RGB,
    thing: Thing,
    side: int,
    rng: Generator,
) -> None:
    """Draw an outline or a line as a brush does: thicker here, thinner there."""
    path = resampled(part.points, 0.012 * side, part.closed)
    # Small things have finer outlines, but never too fine to be seen at 128 pixels.
    width = _OUTLINE * side * part.weight * (0.55 + 0.6 * thing.size)
    swell = 1.0 + 0.2 * np.sin(np.linspace(0, 2 * np.pi * max(1, round(len(path) / 14)), len(path)) + rng.uniform(0, 6.28))
    shape = _flat(ribbon(path, width * swell))
    draw.polygon(shape, fill=ink)
    cover.polygon(shape, fill=255)


def _brushed(canvas: Image.Image, things: Image.Image, size: int, rng: Generator) -> Image.Image:
    """Reduce to the final size and lay a low brush texture over it: level on the ground, slanted on the things."""
    small = np.asarray(canvas.reduce(_OVER), dtype=np.float32)  # [size, size, 3], 0 to 255
    cover = np.asarray(things.reduce(_OVER), dtype=np.float32) * (1 / 255)  # [size, size], 0 to 1
    wash = 2.6 * field(rng, size, 5, 18) + 2.2 * field(rng, size, 5, 5)
    strokes = 4.2 * slanted(rng, size) + 2.0 * field(rng, size, 7, 7)
    small = small + (wash + (strokes - wash) * cover)[:, :, None]
    return Image.fromarray(np.clip(small, 0, 255).astype(np.uint8))
