"""One step of several drawings in one call of the UNet, whatever their adapters, time steps, schedulers and guidance.

Notation: b rows of all drawings, c latent channels, h and w latent height and width, r sum of the ranks of all adapters.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from atelier_contracts import names

from atelier_infer.arrays import Array
from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams, WeightedAdapter
from atelier_infer.errors import DrawingError, MemoryFullError
from atelier_infer.onnx.session import Feeds, run_graph
from atelier_infer.pipeline.adapter import Adapter
from atelier_infer.pipeline.bundle import Bundle

KEPT = 2
"""Combinations of adapters whose arrays are kept laid side by side; the same one usually takes many steps."""


BY_ROW = {names.LORA_SCALE, "sample", "timestep", "encoder_hidden_states"}
"""Inputs whose first dimension is b."""

Drawings = Sequence[DenoisingState]


def _all_rows(drawings: Drawings) -> int:
    return sum(drawing.rows for drawing in drawings)


class DenoisingStep:
    """Takes steps. Used by one thread.

    Args:
        rows_at_once: rows that one run of the graph may have in a step of some drawings; it gets all of them or one.
        failed: told of drawings and rows for which there was not enough memory.
        shrink: told of drawings and rows before a run: whether the memory of the session is to be given back after it.
    """

    def __init__(
        self,
        *,
        rows_at_once: Callable[[Drawings], int] = _all_rows,
        failed: Callable[[Drawings, int], None] = lambda drawings, rows: None,
        shrink: Callable[[Drawings, int], bool] = lambda drawings, rows: False,
    ) -> None:
        self._rows_at_once, self._failed, self._shrink = rows_at_once, failed, shrink
        self._laid: OrderedDict[tuple[str, ...], Feeds] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Memory of the arrays that are kept laid side by side."""
        return sum(array.nbytes for feeds in list(self._laid.values()) for array in feeds.values())

    def step(self, drawings: Sequence[DenoisingState]) -> list[DrawingError | None]:
        """One step of drawings of the same key.

        A drawing whose rows are not finite, or all of them when the graph failed, takes the step once more by itself: infinity
        in one adapter's product turns the rows of others into NaN, since 0 times infinity is that.

        Returns:
            Per drawing what went wrong with it alone.

        Raises:
            MemoryFullError: there was not enough memory; no drawing has taken the step.
        """
        try:
            out = self._out(drawings)
        except DrawingError as error:
            if len(drawings) == 1:
                return [error]
            return [fault for drawing in drawings for fault in self.step([drawing])]
        faults: list[DrawingError | None] = []
        start = 0
        for drawing in drawings:
            rows = out[start : (start := start + drawing.rows)]
            if len(drawings) > 1 and not np.isfinite(rows).all():
                faults += self.step([drawing])
                continue
            try:
                drawing.take(rows)
            except DrawingError as error:
                faults.append(error)
            else:
                faults.append(None)
        return faults

    def _out(self, drawings: Sequence[DenoisingState]) -> Array:
        """float32 [b, c, h, w]."""
        rows = [drawing.rows for drawing in drawings]
        there = {adapter.digest: adapter for drawing in drawings for adapter, _ in drawing.mix}
        adapters = {digest: there[digest] for digest in sorted(there)}  # whoever joined first: sums have one order
        feeds: Feeds = {
            **self._side_by_side(drawings[0].bundle, adapters),
            names.LORA_SCALE: lora_scale(drawings, adapters),
            "sample": np.concatenate([drawing.fed() for drawing in drawings]),
            "timestep": np.repeat(np.array([drawing.timestep() for drawing in drawings], np.float32), rows),
            "encoder_hidden_states": np.concatenate([drawing.states() for drawing in drawings]),
        }
        return self._run(drawings, feeds)

    def _run(self, drawings: Drawings, feeds: Feeds) -> Array:
        """Runs the graph on all rows at once, or on one after the other, which changes rounding alone."""
        rows, unet = _all_rows(drawings), drawings[0].bundle.unet
        try:
            if self._rows_at_once(drawings) >= rows:
                return run_graph(unet, feeds, shrink=self._shrink(drawings, rows))
        except MemoryFullError:
            self._failed(drawings, rows)
            if rows == 1 or len(drawings) > 1:
                raise
        shrink, parts = self._shrink(drawings, 1), list[Array]()
        for row in range(rows):
            part = {name: array[row : row + 1] if name in BY_ROW else array for name, array in feeds.items()}
            try:
                parts.append(run_graph(unet, part, shrink=shrink))
            except MemoryFullError:
                self._failed(drawings, 1)
                raise
        return np.concatenate(parts)

    def _side_by_side(self, bundle: Bundle, adapters: dict[str, Adapter]) -> Feeds:
        """A [in, r] and B [r, out] of every target."""
        if not adapters:
            return dict(bundle.no_adapter)
        if len(adapters) == 1:
            return dict(next(iter(adapters.values())).feeds)
        key = tuple(adapters)
        if key not in self._laid:
            feeds: Feeds = {}
            for layer in bundle.manifest.lora_targets:
                for name, axis in zip(names.lora_inputs(layer), (1, 0), strict=True):
                    feeds[name] = np.concatenate([adapter.feeds[name] for adapter in adapters.values()], axis=axis)
            self._laid[key] = feeds
            if len(self._laid) > KEPT:
                self._laid.popitem(last=False)
        self._laid.move_to_end(key)
        return self._laid[key]


def lora_scale(drawings: Sequence[DenoisingState], adapters: dict[str, Adapter]) -> Array:
    """float32 [b, 1, r]: a row holds the drawing's own scales in its own adapters' blocks and 0 elsewhere."""
    ends = dict(zip(adapters, np.cumsum([adapter.manifest.rank for adapter in adapters.values()]).tolist(), strict=True))
    scales = np.zeros((sum(drawing.rows for drawing in drawings), 1, max(ends.values(), default=0)), np.float32)
    start = 0
    for drawing in drawings:
        for adapter, weight in drawing.mix:
            end = ends[adapter.digest]
            # added, not set: a blend may name the same adapter twice
            scales[start : start + drawing.rows, :, end - adapter.manifest.rank : end] += adapter.scale * weight
        start += drawing.rows
    return scales


def probe(bundle: Bundle, adapter: Adapter) -> None:
    """One step at native size with an empty prompt: whether a version's output is finite at all.

    Raises:
        NonFiniteError: it is not.
        GraphError: ONNX Runtime raised.
    """
    ids, side = bundle.prompts.read("").ids, bundle.manifest.native_size_px
    # of two steps the first lies amid the training steps, where a base does its work
    plan = SamplingParams(ids, ids, steps=2, guidance_scale=1.0, seed=0, width=side, height=side, scheduler="ddim")
    drawing = DenoisingState(bundle, [WeightedAdapter(adapter)], plan)
    drawing.begin()
    if fault := DenoisingStep().step([drawing])[0]:
        raise fault
