"""The account of memory: what is held, what a step or a decoding takes, and what still fits below the limit.

limit = process + bundles + adapters + what is watched (kept images, uploads, …) + decodings + the step that runs + free
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

from atelier_infer.errors import ImageSizeError, MemoryFullError
from atelier_infer.pipeline.memory_model import SHRINK_FROM

if TYPE_CHECKING:
    from atelier_infer.engine.denoising_state import DenoisingState
    from atelier_infer.pipeline.adapter import Adapter
    from atelier_infer.pipeline.bundle import Bundle

MIB = 2**20
PIXEL_BYTES = 96
"""Of an image of the decoder while it becomes a PNG: float32 and its copies, levels, bytes."""


PREVIEW_PX = 256
"""Side of a preview that may be decoded at any time."""


class MemoryAccount:
    """May be used from any thread.

    Args:
        limit_bytes: what this process may use.
        process_bytes: what it uses without any base; by default what it uses now.
        forget_s: so long a size that did not fit, whatever the account said, is not tried again.
        shrinks: whether the provider gives memory back when it is told to.
    """

    def __init__(
        self, limit_bytes: int, *, process_bytes: int | None = None, forget_s: float = 600.0, shrinks: bool = True
    ) -> None:
        self.limit_bytes, self._forget_s, self._shrinks, self._arena = limit_bytes, forget_s, shrinks, 0
        self._process = resident_bytes() if process_bytes is None else process_bytes
        self._lock = threading.RLock()  # a finaliser may run while it is held
        self._held: Counter[str] = Counter()
        self._watched: dict[str, Callable[[], int]] = {}
        self._failed: dict[str, tuple[float, float]] = {}

    def hold(self, thing: object, part: str, nbytes: int) -> None:
        """Counts something until nobody refers to it any more, whoever that is."""
        self._add(part, nbytes)
        weakref.finalize(thing, self._add, part, -nbytes).atexit = False

    @contextmanager
    def held(self, part: str, nbytes: int) -> Iterator[None]:
        """Counts so many bytes meanwhile."""
        self._add(part, nbytes)
        try:
            yield
        finally:
            self._add(part, -nbytes)

    def watch(self, part: str, read: Callable[[], int]) -> None:
        """Counts what `read` says whenever it is asked."""
        self._watched[part] = read

    def parts(self) -> dict[str, int]:
        """Bytes by what they are for."""
        with self._lock:
            held = dict(self._held)
        watched = {part: read() for part, read in self._watched.items()}
        return {"process": self._process, **held, **watched, "arena": self._arena}

    @property
    def free_bytes(self) -> int:
        """What is left for anything new; negative where too much is held."""
        return self.limit_bytes - sum(self.parts().values())

    def take_adapter(self, adapter: Adapter) -> None:
        """Counts an adapter that was loaded.

        Raises:
            MemoryFullError: it does not fit beside what is held and the smallest step.
        """
        if adapter.nbytes > self.free_bytes:
            raise MemoryFullError(
                f"an adapter of {adapter.nbytes / MIB:.1f} MiB does not fit: {self._usage()}; ask for fewer aliases and "
                "versions, or raise memory_mib",
                30,
            )
        self.hold(adapter, "adapters", adapter.nbytes)

    def check_bundle(self, digest: str, nbytes: int) -> None:
        """Whether another base fits beside what is held.

        Raises:
            MemoryFullError: it does not.
        """
        with self._lock:
            beside = self._held["bundles"]
        if beside and nbytes > self.free_bytes:
            raise MemoryFullError(
                f"bundle {digest} needs {nbytes / MIB:.0f} MiB while the one before it is in memory: {self._usage()}; raise "
                "memory_mib, or restart the service: it then loads what the aliases name now",
                60,
            )

    def tile_px(self, bundle: Bundle) -> int:
        """Longest side that is decoded whole: as the bundle says, or less, so that a step at native size fits beside it.

        It depends on nothing that changes while the service runs: the same request is the same image.
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
        """Whether an image can ever be drawn, with nothing else in memory but its base; row by row, if need be.

        Raises:
            ImageSizeError: it cannot; the text names the largest square that can.
        """
        if self._ever(bundle, width, height):
            return
        multiple = bundle.manifest.size_multiple_px
        sides = range(max(width, height) // multiple * multiple, 0, -multiple)
        largest = next((side for side in sides if self._ever(bundle, side, side)), None)
        told = f"the largest square that fits is {largest} x {largest} px" if largest else "no size fits beside this base"
        raise ImageSizeError(
            f"width x height must fit the memory of this service ({self.limit_bytes / MIB:.0f} MiB, of which its base takes "
            f"{bundle.memory.resident_bytes / MIB if bundle.memory else 0:.0f}); received {width} x {height}; {told}"
        )

    def step_bytes(self, drawings: Sequence[DenoisingState]) -> int:
        """What one step of drawings of one size takes; of one alone at the least, that is row by row."""
        bundle, plan = drawings[0].bundle, drawings[0].plan
        rows = sum(drawing.rows for drawing in drawings) if len(drawings) > 1 else 1
        step = bundle.memory.step.bytes(rows, plan.width * plan.height) if bundle.memory else 0
        return step + _side_by_side(drawings)

    def decode_bytes(self, drawing: DenoisingState) -> int:
        """What decoding it takes."""
        return self._decode(drawing.bundle, drawing.plan.width, drawing.plan.height)

    def fits(self, drawings: Sequence[DenoisingState], decoding: Iterable[DenoisingState]) -> bool:
        """Whether a step fits beside what is held and what is decoded meanwhile.

        Args:
            drawings: of one size; at least one.
            decoding: that have taken their last step; one at a time is decoded.
        """
        bundle, plan = drawings[0].bundle, drawings[0].plan
        if len(drawings) > 1:
            rows = sum(drawing.rows for drawing in drawings)
            if rows * plan.width * plan.height >= self._most_px(bundle):
                return False
        return self.step_bytes(drawings) <= self._room(bundle, decoding)

    def rows_at_once(self, drawings: Sequence[DenoisingState]) -> int:
        """Rows that one run may have in a step of them: all of them, or one."""
        bundle, plan = drawings[0].bundle, drawings[0].plan
        rows, px = sum(drawing.rows for drawing in drawings), plan.width * plan.height
        whole = bundle.memory.step.bytes(rows, px) if bundle.memory else 0
        fits = whole + _side_by_side(drawings) <= self._room(bundle, ())
        return rows if fits and rows * px < self._most_px(bundle) else 1

    def failed(self, drawings: Sequence[DenoisingState], rows: int) -> None:
        """Told of a step for which there was not enough memory: as many rows times pixels are not tried again for forget_s."""
        bundle, plan = drawings[0].bundle, drawings[0].plan
        with self._lock:
            most = min(self._most_px(bundle), rows * plan.width * plan.height)
            self._failed[bundle.digest] = most, time.monotonic() + self._forget_s

    def shrink(self, drawings: Sequence[DenoisingState], rows: int) -> bool:
        """Told of a run of so many rows: whether the session gives its memory back after it.

        It does when a drawing ends, or an arena of a larger step is left; what it keeps until then is counted.
        """
        bundle, plan = drawings[0].bundle, drawings[0].plan
        step = bundle.memory.step.bytes(rows, plan.width * plan.height) if bundle.memory else 0
        ends = any(drawing.taken + 1 >= drawing.steps for drawing in drawings)
        left, self._arena = self._arena, max(self._arena, step)
        if not self._shrinks or self._arena < SHRINK_FROM or not (ends or left > 1.5 * step):
            return False
        self._arena = 0
        return True

    def full(self, drawing: DenoisingState) -> MemoryFullError:
        """Why a drawing that would fit alone does not fit now."""
        return MemoryFullError(
            f"a step of {drawing.plan.width} x {drawing.plan.height} px needs {self.step_bytes([drawing]) / MIB:.0f} MiB now: "
            f"{self._usage()}; send the request again later, with a smaller size, or raise memory_mib",
            10,
        )

    def _ever(self, bundle: Bundle, width: int, height: int) -> bool:
        if width * height >= self._most_px(bundle):
            return False
        if bundle.memory is None:
            return True
        room = self.limit_bytes - self._process - bundle.memory.resident_bytes
        step = bundle.memory.step.bytes(1, width * height) + self._beside(bundle, ())
        return max(step, self._decode(bundle, width, height)) <= room

    def _decode(self, bundle: Bundle, width: int, height: int) -> int:
        if bundle.memory is None:
            return 0
        tile = bundle.decode_tile_px
        return bundle.memory.decode.bytes(1, min(width, tile) * min(height, tile)) + PIXEL_BYTES * width * height

    def _room(self, bundle: Bundle, decoding: Iterable[DenoisingState]) -> int:
        """For a step, which uses the arena anew."""
        return self.free_bytes + self._arena - self._beside(bundle, decoding)

    def _beside(self, bundle: Bundle, decoding: Iterable[DenoisingState]) -> int:
        preview = self._decode(bundle, PREVIEW_PX, PREVIEW_PX)
        return max([preview, *map(self.decode_bytes, decoding)])

    def _most_px(self, bundle: Bundle) -> float:
        """Rows times pixels that failed; infinity where none did lately."""
        most, until = self._failed.get(bundle.digest, (float("inf"), 0.0))
        return most if time.monotonic() < until else float("inf")

    def _add(self, part: str, nbytes: int) -> None:
        with self._lock:
            self._held[part] += nbytes

    def _usage(self) -> str:
        parts = ", ".join(f"{part} {nbytes / MIB:.0f}" for part, nbytes in self.parts().items() if nbytes)
        return f"of {self.limit_bytes / MIB:.0f} MiB are held: {parts}"


def resident_bytes() -> int:
    """Of this process. Source: proc(5), /proc/pid/statm, in pages."""
    import resource

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _side_by_side(drawings: Sequence[DenoisingState]) -> int:
    adapters = {adapter.digest: adapter for drawing in drawings for adapter, _ in drawing.mix}
    return sum(adapter.nbytes for adapter in adapters.values()) if len(adapters) > 1 else 0
