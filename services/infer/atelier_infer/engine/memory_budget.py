"""The memory budget: what is in use, what a step or a decode takes, and what still fits under the limit.

limit = process + bundles + adapters + sources (job images, uploads, …) + decodes + the running step + free
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from atelier_infer.errors import ImageSizeError, OutOfMemoryError
from atelier_infer.pipeline.memory_model import SHRINK_FROM

if TYPE_CHECKING:
    from atelier_infer.engine.denoising_state import DenoisingState
    from atelier_infer.pipeline.adapter import Adapter
    from atelier_infer.pipeline.bundle import Bundle

MIB = 2**20
PIXEL_BYTES = 96
"""Per pixel, while the decoder's output becomes a PNG: float32 and its copies, levels, encoded bytes."""

PREVIEW_PX = 256
"""Side of a preview, which may be decoded at any time."""


class MemoryBudget:
    """May be used from any thread.

    Args:
        limit_bytes: for the whole process.
        process_bytes: in use without any base model; by default what is in use now.
        forget_s: how long a size that ran out of memory is not tried again.
        shrinks: whether the provider can return memory to the system.
    """

    def __init__(
        self, limit_bytes: int, *, process_bytes: int | None = None, forget_s: float = 600.0, shrinks: bool = True
    ) -> None:
        self.limit_bytes, self._forget_s, self._shrinks, self._arena = limit_bytes, forget_s, shrinks, 0
        self._process = resident_bytes() if process_bytes is None else process_bytes
        self._lock = threading.RLock()  # a finaliser may run in the thread that holds it
        self._tracked: Counter[str] = Counter()
        self._sources: dict[str, Callable[[], int]] = {}
        self._failed: dict[str, tuple[float, float]] = {}

    def track(self, thing: object, part: str, nbytes: int) -> None:
        """Counts an object until it is garbage collected."""
        self._add(part, nbytes)
        weakref.finalize(thing, self._add, part, -nbytes).atexit = False

    @contextmanager
    def reserved(self, part: str, nbytes: int) -> Iterator[None]:
        self._add(part, nbytes)
        try:
            yield
        finally:
            self._add(part, -nbytes)

    def add_source(self, part: str, read: Callable[[], int]) -> None:
        """Counts what `read` returns, whenever usage is computed."""
        self._sources[part] = read

    def usage(self) -> dict[str, int]:
        """Bytes by purpose."""
        with self._lock:
            tracked = dict(self._tracked)
        sources = {part: read() for part, read in self._sources.items()}
        return {"process": self._process, **tracked, **sources, "arena": self._arena}

    @property
    def free_bytes(self) -> int:
        """Negative when more than the limit is in use."""
        return self.limit_bytes - sum(self.usage().values())

    def add_adapter(self, adapter: Adapter) -> None:
        """Tracks an adapter.

        Raises:
            OutOfMemoryError: it does not fit.
        """
        if adapter.nbytes > self.free_bytes:
            raise OutOfMemoryError(
                f"an adapter of {adapter.nbytes / MIB:.1f} MiB does not fit: {self._describe()}; request fewer aliases and "
                "versions, or raise memory_mib",
                30,
            )
        self.track(adapter, "adapters", adapter.nbytes)

    def check_bundle(self, digest: str, nbytes: int) -> None:
        """Checks that another base model fits in addition to those that are loaded.

        Raises:
            OutOfMemoryError: it does not.
        """
        with self._lock:
            loaded = self._tracked["bundles"]
        if loaded and nbytes > self.free_bytes:
            raise OutOfMemoryError(
                f"bundle {digest} needs {nbytes / MIB:.0f} MiB while the one before it is in memory: {self._describe()}; raise "
                "memory_mib, or restart the service, which then loads only what the aliases name",
                60,
            )

    def decode_tile_px(self, bundle: Bundle) -> int:
        """Longest side that is decoded whole: the bundle's, or less, so that a step at native size still fits.

        Depends on nothing that changes while the service runs, so that equal requests give equal images.
        """
        native = bundle.manifest.native_size_px
        if bundle.memory is None or bundle.decode_tile_px <= native:
            return bundle.decode_tile_px
        room = self.limit_bytes - self._process - bundle.memory.resident_bytes - bundle.memory.step.bytes(2, native**2)
        multiple = bundle.manifest.size_multiple_px
        sides = range(native, bundle.decode_tile_px, multiple)
        fitting = [side for side in (*sides, bundle.decode_tile_px) if bundle.memory.decode.bytes(1, side**2) <= room]
        return max(fitting, default=native)

    def check_size(self, bundle: Bundle, width: int, height: int) -> None:
        """Checks that an image fits, row by row if necessary, when nothing but its base model is in memory.

        Raises:
            ImageSizeError: it does not; the message names the largest square that does.
        """
        if self._can_ever_fit(bundle, width, height):
            return
        multiple = bundle.manifest.size_multiple_px
        sides = range(max(width, height) // multiple * multiple, 0, -multiple)
        largest = next((side for side in sides if self._can_ever_fit(bundle, side, side)), None)
        hint = f"the largest square that fits is {largest} x {largest} px" if largest else "no size fits with this base model"
        raise ImageSizeError(
            f"width x height must fit the memory of this service ({self.limit_bytes / MIB:.0f} MiB, of which the base model "
            f"takes {bundle.memory.resident_bytes / MIB if bundle.memory else 0:.0f}); received {width} x {height}; {hint}"
        )

    def step_bytes(self, states: Sequence[DenoisingState]) -> int:
        """Of one step of images of one size; for a single image the minimum, row by row."""
        bundle, params = states[0].bundle, states[0].params
        rows = sum(state.rows for state in states) if len(states) > 1 else 1
        step = bundle.memory.step.bytes(rows, params.width * params.height) if bundle.memory else 0
        return step + _concatenated_bytes(states)

    def decode_bytes(self, state: DenoisingState) -> int:
        return self._decode_bytes(state.bundle, state.params.width, state.params.height)

    def fits(self, states: Sequence[DenoisingState], decoding: Iterable[DenoisingState]) -> bool:
        """Whether a step fits in addition to everything in use.

        Args:
            states: images of one size; at least one.
            decoding: images that have taken their last step; one at a time is decoded.
        """
        bundle, params = states[0].bundle, states[0].params
        if len(states) > 1:
            rows = sum(state.rows for state in states)
            if rows * params.width * params.height >= self._failed_px(bundle):
                return False
        return self.step_bytes(states) <= self._step_room(bundle, decoding)

    def max_rows(self, states: Sequence[DenoisingState]) -> int:
        """Batch rows that one run of a step may have: all of them, or 1."""
        bundle, params = states[0].bundle, states[0].params
        rows, px = sum(state.rows for state in states), params.width * params.height
        whole = bundle.memory.step.bytes(rows, px) if bundle.memory else 0
        fits = whole + _concatenated_bytes(states) <= self._step_room(bundle, ())
        return rows if fits and rows * px < self._failed_px(bundle) else 1

    def record_out_of_memory(self, states: Sequence[DenoisingState], rows: int) -> None:
        """As many rows times pixels are not tried again for forget_s."""
        bundle, params = states[0].bundle, states[0].params
        with self._lock:
            failed = min(self._failed_px(bundle), rows * params.width * params.height)
            self._failed[bundle.digest] = failed, time.monotonic() + self._forget_s

    def shrink_after(self, states: Sequence[DenoisingState], rows: int) -> bool:
        """Counts the arena of a run of these rows, and decides whether the session returns its memory afterwards.

        It does when an image is finished, or when the arena of a larger step remains; until then the arena is counted.
        """
        bundle, params = states[0].bundle, states[0].params
        step = bundle.memory.step.bytes(rows, params.width * params.height) if bundle.memory else 0
        ends = any(state.completed_steps + 1 >= state.steps for state in states)
        before, self._arena = self._arena, max(self._arena, step)
        if not self._shrinks or self._arena < SHRINK_FROM or not (ends or before > 1.5 * step):
            return False
        self._arena = 0
        return True

    def out_of_memory_error(self, state: DenoisingState) -> OutOfMemoryError:
        """For an image that would fit alone, but not in addition to what is in use now."""
        return OutOfMemoryError(
            f"a step of {state.params.width} x {state.params.height} px needs {self.step_bytes([state]) / MIB:.0f} MiB now: "
            f"{self._describe()}; send the request again later or with a smaller size, or raise memory_mib",
            10,
        )

    def _can_ever_fit(self, bundle: Bundle, width: int, height: int) -> bool:
        if width * height >= self._failed_px(bundle):
            return False
        if bundle.memory is None:
            return True
        room = self.limit_bytes - self._process - bundle.memory.resident_bytes
        step = bundle.memory.step.bytes(1, width * height) + self._largest_decode(bundle, ())
        return max(step, self._decode_bytes(bundle, width, height)) <= room

    def _decode_bytes(self, bundle: Bundle, width: int, height: int) -> int:
        if bundle.memory is None:
            return 0
        tile = bundle.decode_tile_px
        return bundle.memory.decode.bytes(1, min(width, tile) * min(height, tile)) + PIXEL_BYTES * width * height

    def _step_room(self, bundle: Bundle, decoding: Iterable[DenoisingState]) -> int:
        """A step reuses the arena."""
        return self.free_bytes + self._arena - self._largest_decode(bundle, decoding)

    def _largest_decode(self, bundle: Bundle, decoding: Iterable[DenoisingState]) -> int:
        preview = self._decode_bytes(bundle, PREVIEW_PX, PREVIEW_PX)
        return max([preview, *map(self.decode_bytes, decoding)])

    def _failed_px(self, bundle: Bundle) -> float:
        """Rows times pixels that ran out of memory recently; infinity when none did."""
        failed, until = self._failed.get(bundle.digest, (float("inf"), 0.0))
        return failed if time.monotonic() < until else float("inf")

    def _add(self, part: str, nbytes: int) -> None:
        with self._lock:
            self._tracked[part] += nbytes

    def _describe(self) -> str:
        parts = ", ".join(f"{part} {nbytes / MIB:.0f}" for part, nbytes in self.usage().items() if nbytes)
        return f"of {self.limit_bytes / MIB:.0f} MiB are in use: {parts}"


def resident_bytes() -> int:
    """Of this process. Source: proc(5), /proc/pid/statm, in pages."""
    import resource

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _concatenated_bytes(states: Sequence[DenoisingState]) -> int:
    adapters = {adapter.digest: adapter for state in states for adapter, _ in state.adapters}
    return sum(adapter.nbytes for adapter in adapters.values()) if len(adapters) > 1 else 0
