"""A stager in memory: every version loads and draws a plain colour, unless a test says otherwise."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
from atelier_contracts.stage import StagedImage, StageImage, StageResponse
from atelier_registry.errors import StageRefusedError, StageUnavailableError
from PIL import Image, ImageDraw


def png(level: int, size: int = 8) -> bytes:
    """A plain grey."""
    stream = io.BytesIO()
    Image.new("RGB", (size, size), (level, level, level)).save(stream, "png")
    return stream.getvalue()


def drawing(angle: int, size: int = 64) -> bytes:
    """Thick dark lines on white, turned by some degrees."""
    image = Image.new("RGB", (size, size), "white")
    pen, middle = ImageDraw.Draw(image), size / 2
    dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for offset in (-size / 5, size / 5):
        x, y = middle - dy * offset, middle + dx * offset
        pen.line((x - dx * middle, y - dy * middle, x + dx * middle, y + dy * middle), "black", max(2, size // 16))
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


def pixel_difference(one: bytes, other: bytes) -> float:
    """Mean absolute difference of two images' values, 0 to 1."""
    a, b = (np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float64) for content in (one, other))
    return float(np.abs(a - b).mean()) / 255


class FakeInferClient:
    """`broken` versions do not load; `down` stands for an infer that does not answer.

    `levels` gives a version its grey, `angles` its drawing; a `deaf` infer draws the same for every prompt.
    """

    def __init__(self) -> None:
        self.broken: set[int] = set()
        self.down = False
        self.levels: dict[int, int] = {}
        self.angles: dict[int, int] = {}
        self.deaf = False
        self.calls: list[int] = []
        self.digests: list[str | None] = []
        self.before: Callable[[], None] = lambda: None

    def stage(
        self, model: str, version: int, images: Sequence[StageImage] = (), *, adapter_digest: str | None = None
    ) -> StageResponse:
        self.before()
        self.calls.append(version)
        self.digests.append(adapter_digest)
        if self.down:
            raise StageUnavailableError("infer does not answer (ConnectionError)")
        if version in self.broken:
            raise StageRefusedError(f"infer cannot load version {version}: its weights hold NaN")
        return StageResponse(
            model=model, version=version, adapter_digest=adapter_digest or "a" * 64,
            bundle_digest="b" * 64, load_seconds=0.1, step_seconds=0.01,
            images=[
                StagedImage.model_construct(request=asked, seconds=0.1, png=self._draw(version, asked))
                for asked in images
            ],
        )  # fmt: skip

    def _draw(self, version: int, asked: StageImage) -> bytes:
        if version in self.angles:
            return drawing(self.angles[version] + (0 if self.deaf else 7 * len(asked.prompt)), asked.size or 64)
        return png(self.levels.get(version, 100), asked.size or 8)
