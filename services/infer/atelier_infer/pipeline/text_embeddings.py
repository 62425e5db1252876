"""What the text encoder says of prompts, kept for the prompts used last: the empty one is in nearly every request."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from atelier_infer.arrays import Array
from atelier_infer.onnx.session import Graph, run_graph

KEPT = 64
"""Prompts, of 309 KiB each with the text encoder of Stable Diffusion 2."""


class TextEmbeddingCache:
    """Each prompt is encoded by itself, so that its states do not depend on what else is encoded. Used by one thread.

    Notation: s text tokens, d text width.
    """

    def __init__(self, encoder: Graph) -> None:
        self._encoder = encoder
        self._kept: OrderedDict[bytes, Array] = OrderedDict()

    def of(self, ids: NDArray[np.int64]) -> Array:
        """Token ids int64 [s] → states float32 [s, d].

        Raises:
            GraphError: ONNX Runtime raised.
        """
        key = ids.tobytes()
        if key not in self._kept:
            self._kept[key] = run_graph(self._encoder, {"input_ids": ids[np.newaxis]})[0]
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
