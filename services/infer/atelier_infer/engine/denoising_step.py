"""One step of several images in one call of the UNet, whatever their adapters, time steps, schedulers and guidance.

Notation: b rows of all images, c latent channels, h and w latent height and width, r sum of the ranks of all adapters.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from atelier_infer.arrays import Array
from atelier_infer.engine.denoising_state import DenoisingState, SamplingParams
from atelier_infer.errors import GenerationError, OutOfMemoryError
from atelier_infer.onnx.session import Feeds, run_graph
from atelier_infer.pipeline.adapter import Adapter, WeightedAdapter
from atelier_infer.pipeline.bundle import Bundle
from atelier_infer.pipeline.lora_layout import LoraLayout, PartWeights

MAX_CACHED = 2
"""Combinations of adapters whose concatenated arrays are cached; a combination usually takes many steps in a row."""

States = Sequence[DenoisingState]


def _total_rows(states: States) -> int:
    return sum(state.rows for state in states)


class DenoisingStep:
    """Used by one thread.

    Args:
        max_rows: batch rows that one run of the graph may have in a step of these images: all of their rows, or 1.
        record_out_of_memory: called with the images and the rows of a run that ran out of memory.
        shrink_after: called with the images and the rows before a run; whether the session returns its memory afterwards.
    """

    def __init__(
        self,
        *,
        max_rows: Callable[[States], int] = _total_rows,
        record_out_of_memory: Callable[[States, int], None] = lambda states, rows: None,
        shrink_after: Callable[[States, int], bool] = lambda states, rows: False,
    ) -> None:
        self._max_rows, self._record_out_of_memory, self._shrink_after = max_rows, record_out_of_memory, shrink_after
        self._concatenated: OrderedDict[tuple[str, ...], Feeds] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Memory of the cached concatenated arrays."""
        return sum(array.nbytes for feeds in list(self._concatenated.values()) for array in feeds.values())

    def step(self, states: States) -> list[GenerationError | None]:
        """One step of images of one bucket.

        An image whose rows are not finite repeats the step by itself, and all of them do when the graph failed: infinity in
        the product of one adapter turns the rows of the others into NaN, because 0 times infinity is NaN.

        Returns:
            Per image its own error, or None.

        Raises:
            OutOfMemoryError: no image has taken the step.
        """
        try:
            outputs = self._run_unet(states, *self._feeds(states))
        except GenerationError as error:
            if len(states) == 1:
                return [error]
            return [result for state in states for result in self.step([state])]
        errors: list[GenerationError | None] = []
        start = 0
        for state in states:
            rows = outputs[start : (start := start + state.rows)]
            if len(states) > 1 and not np.isfinite(rows).all():
                errors += self.step([state])
                continue
            try:
                state.step(rows)
            except GenerationError as error:
                errors.append(error)
            else:
                errors.append(None)
        return errors

    def _feeds(self, states: States) -> tuple[Feeds, Feeds]:
        """By row, and those of the adapters, which all rows share."""
        rows = [state.rows for state in states]
        used = {adapter.digest: adapter for state in states for adapter, _ in state.adapters}
        digests = tuple(sorted(used))  # so that sums do not depend on the order of arrival
        lora, conditionings = states[0].bundle.lora, [state.conditioning() for state in states]
        parts = [used[digest].parts.get("unet", {}) for digest in digests]
        by_row: Feeds = {
            **lora.scales(parts, _weights_by_row(states, digests)),
            "sample": np.concatenate([state.model_input() for state in states]),
            "timestep": np.repeat(np.array([state.timestep() for state in states], np.float32), rows),
            **{name: np.concatenate([one[name] for one in conditionings]) for name in conditionings[0]},
        }
        return by_row, self._adapter_feeds(lora, digests, parts)

    def _run_unet(self, states: States, by_row: Feeds, shared: Feeds) -> Array:
        """float32 [b, c, h, w]. Runs all rows at once or one after another, which changes nothing but rounding."""
        rows, unet = _total_rows(states), states[0].bundle.unet
        try:
            if self._max_rows(states) >= rows:
                return run_graph(unet, by_row | shared, shrink=self._shrink_after(states, rows))[0]
        except OutOfMemoryError:
            self._record_out_of_memory(states, rows)
            if rows == 1 or len(states) > 1:
                raise
        shrink, outputs = self._shrink_after(states, 1), list[Array]()
        for row in range(rows):
            own = {name: array[row : row + 1] for name, array in by_row.items()}
            try:
                outputs += run_graph(unet, own | shared, shrink=shrink)
            except OutOfMemoryError:
                self._record_out_of_memory(states, 1)
                raise
        return np.concatenate(outputs)

    def _adapter_feeds(self, lora: LoraLayout, digests: tuple[str, ...], parts: Sequence[PartWeights]) -> Feeds:
        """A and B of every group, the adapters concatenated along r."""
        if len(digests) < 2:
            return {**lora.arrays(parts)}
        if digests not in self._concatenated:
            self._concatenated[digests] = {**lora.arrays(parts)}
            if len(self._concatenated) > MAX_CACHED:
                self._concatenated.popitem(last=False)
        self._concatenated.move_to_end(digests)
        return self._concatenated[digests]


def _weights_by_row(states: States, digests: Sequence[str]) -> Iterator[dict[int, float]]:
    """Per batch row the weight of each of its adapters, by the adapter's position."""
    for state in states:
        weights: dict[int, float] = {}
        for adapter, weight in state.adapters:
            position = digests.index(adapter.digest)
            weights[position] = weights.get(position, 0.0) + weight  # a blend may name one adapter twice
        for _ in range(state.rows):
            yield weights


def probe(bundle: Bundle, adapter: Adapter) -> None:
    """One step at native size with an empty prompt, to check that a version's output is finite.

    Raises:
        NonFiniteError: it is not.
        GraphError: ONNX Runtime failed.
    """
    ids, side = bundle.tokenizer.encode("").ids, bundle.manifest.native_size_px
    # of two steps, the first lies in the middle of the training steps, where the base model does most of its work
    params = SamplingParams(ids, ids, steps=2, guidance_scale=1.0, seed=0, width=side, height=side, scheduler="ddim")
    state = DenoisingState(bundle, [WeightedAdapter(adapter)], params)
    state.prepare()
    if error := DenoisingStep().step([state])[0]:
        raise error
