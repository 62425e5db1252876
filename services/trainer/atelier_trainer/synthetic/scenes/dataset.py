"""Numbered images with captions: the i-th depends on the seed and i alone, and shows the same scene in both styles."""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from atelier_trainer.synthetic.scenes.captions import caption
from atelier_trainer.synthetic.scenes.scene import KINDS, Scene, sample_scene
from atelier_trainer.synthetic.scenes.styles.paint import paint
from atelier_trainer.synthetic.scenes.styles.pencil import sketch

Style = Literal["sketch", "colour"]
STYLES: dict[str, Callable[[Scene, int], Image.Image]] = {"sketch": sketch, "colour": paint}
LEAST_SIZE, MOST_SIZE, SIZE_STEP = 64, 512, 8


def render(
    seed: int,
    index: int,
    style: str,
    size: int,
    *,
    kinds: Sequence[str] = KINDS,
    count: int | None = None,
    plain: bool = False,
) -> tuple[Image.Image, str, Scene]:
    """Make one image of an endless series.

    Args:
        seed: chooses the series, 0 or more.
        index: place in the series, 0 or more.
        style: "sketch" or "colour"; scene and caption do not depend on it.
        size: side of the image in pixels: a multiple of 8 from 64 to 512; scene and caption do not depend on it.
        kinds: what may be drawn.
        count: how many things; None for one to three.
        plain: True for a plain ground only.

    Returns:
        The image (RGB), its caption and its scene.

    Raises:
        ValueError: an argument is out of range, or `sample_scene` refuses the kinds or the count.
    """
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}; received {style!r}: choose one of them")
    if size % SIZE_STEP or not LEAST_SIZE <= size <= MOST_SIZE:
        raise ValueError(
            f"size must be a multiple of {SIZE_STEP} from {LEAST_SIZE} to {MOST_SIZE} pixels; "
            f"received {size}: choose such a size, for example 256"
        )
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be 0 or more; received seed {seed}, index {index}: choose others")
    rng = np.random.default_rng([seed, index])
    scene = sample_scene(rng, kinds, count, plain)
    return STYLES[style](scene, size), caption(scene, rng), scene


def write_imagefolder(out: Path, style: Style, count: int, seed: int, size: int = 256) -> None:
    """Write `count` images as 000000.png, 000001.png, ... and metadata.jsonl with one caption a line.

    The folder appears complete or not at all. The same arguments always give the same bytes.

    Args:
        out: a folder that does not exist yet or is empty.
        style: "sketch" or "colour".
        count: number of images, 1 or more.
        seed: chooses the series; equal seeds give equal scenes and captions in both styles.
        size: side of the images in pixels.

    Raises:
        ValueError: `count` is below 1, `out` is not an empty folder, or `render` refuses style, size or seed.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more; received {count}: ask for at least one image")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out must be a new or an empty folder; received {out}, which holds something: choose another")
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, because a rename is atomic within one file system only.
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        with (unfinished / "metadata.jsonl").open("w", encoding="utf-8", newline="\n") as lines:
            for index in range(count):
                rendered, text, _ = render(seed, index, style, size)
                name = f"{index:06d}.png"
                rendered.save(unfinished / name)
                lines.write(json.dumps({"file_name": name, "text": text}) + "\n")
        # mkdtemp keeps others out; a finished data set is for everyone to read.
        unfinished.chmod(0o755)
        unfinished.replace(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def contact_sheet(images: list[Image.Image], columns: int) -> Image.Image:
    """Lay images of one size out in rows on white.

    Raises:
        ValueError: there are no images, they differ in size, or `columns` is below 1.
    """
    sizes = sorted({image.size for image in images})
    if len(sizes) != 1 or columns < 1:
        raise ValueError(
            "a contact sheet takes images of one size in 1 column or more; "
            f"received {len(images)} images of sizes {sizes} and {columns} columns: correct these"
        )
    wide, high = sizes[0]
    gap = max(2, wide // 32)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (wide + gap) + gap, rows * (high + gap) + gap), "white")
    for k, image in enumerate(images):
        sheet.paste(image, (gap + k % columns * (wide + gap), gap + k // columns * (high + gap)))
    return sheet
