"""The text encoder and a cache of its outputs: the empty negative prompt is in nearly every request."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from atelier_infer.arrays import Array
from atelier_infer.onnx.session import Session, run_graph

CAPACITY = 64
"""Prompts, of 309 KiB each with the text encoder of Stable Diffusion 2."""


class TextEmbeddingCache:
    """Each prompt is encoded alone, so that its embeddings do not depend on other prompts. Used by one thread.

    Notation: s text tokens, d text width.
    """

    def __init__(self, encoder: Session) -> None:
        self._encoder = encoder
        self._cache: OrderedDict[bytes, Array] = OrderedDict()

    def get(self, ids: NDArray[np.int64]) -> Array:
        """Token ids int64 [s] → embeddings float32 [s, d].

        Raises:
            GraphError: ONNX Runtime failed.
        """
        key = ids.tobytes()
        if key not in self._cache:
            self._cache[key] = run_graph(self._encoder, {"input_ids": ids[np.newaxis]})[0]
            if len(self._cache) > CAPACITY:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]
