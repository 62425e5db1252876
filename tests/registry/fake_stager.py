"""A stager in memory: every version loads and draws a plain colour, unless a test says otherwise."""

from __future__ import annotations

import io
from collections.abc import Callable

from atelier_contracts.stage import Staged, StagedPicture
from atelier_registry.errors import StageRefusedError, StageUnavailableError
from PIL import Image


def png(level: int, size: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), (level, level, level)).save(stream, "png")
    return stream.getvalue()


class FakeStager:
    """`broken` versions do not load; `down` stands for an infer that does not answer; `levels` gives a version its grey."""

    def __init__(self) -> None:
        self.broken: set[int] = set()
        self.down = False
        self.levels: dict[int, int] = {}
        self.calls: list[int] = []
        self.digests: list[str | None] = []
        self.before: Callable[[], None] = lambda: None

    def stage(self, model, version, pictures=(), *, adapter_digest=None):
        self.before()
        self.calls.append(version)
        self.digests.append(adapter_digest)
        if self.down:
            raise StageUnavailableError("infer does not answer (ConnectionError)")
        if version in self.broken:
            raise StageRefusedError(f"infer cannot load version {version}: its weights hold NaN")
        return Staged(
            model=model, version=version, adapter_digest=adapter_digest or "a" * 64,
            bundle_digest="b" * 64, load_seconds=0.1, step_seconds=0.01,
            pictures=[
                StagedPicture.model_construct(asked=asked, seconds=0.1, png=png(self.levels.get(version, 100), asked.size or 8))
                for asked in pictures
            ],
        )  # fmt: skip
