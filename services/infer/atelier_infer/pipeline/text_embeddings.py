"""The text encoders and a cache of their outputs: the empty negative prompt is in nearly every request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atelier_infer.families.family import TextOutputs
from atelier_infer.onnx.session import Feeds, Session, run_graph
from atelier_infer.pipeline.adapter import WeightedAdapter
from atelier_infer.pipeline.lora_layout import LoraLayout
from atelier_infer.pipeline.tokenizer import TokenIds

CAPACITY = 64
"""Prompts, of 309 KiB each with the text encoder of Stable Diffusion 2."""


@dataclass(frozen=True)
class TextEncoderGraph:
    """One text encoder: input_ids int64 [1, s] and LoRA inputs → the family's outputs."""

    session: Session
    layout: LoraLayout
    outputs: tuple[str, ...]


class TextEmbeddingCache:
    """Each prompt is encoded alone, so that its embeddings do not depend on other prompts. Used by one thread.

    Args:
        encoders: by part, in the manifest's order.
    """

    def __init__(self, encoders: Mapping[str, TextEncoderGraph]) -> None:
        self._encoders = encoders
        self._cache: OrderedDict[tuple[object, ...], dict[str, TextOutputs]] = OrderedDict()

    def get(self, ids: TokenIds, adapters: Sequence[WeightedAdapter] = ()) -> dict[str, TextOutputs]:
        """Outputs of every text encoder for one text, with the LoRA that the adapters have for them.

        Raises:
            GraphError: ONNX Runtime failed.
        """
        used = _text_adapters(adapters)
        key = (*(array.tobytes() for array in ids), *((adapter.digest, weight) for adapter, weight in used))
        if key not in self._cache:
            self._cache[key] = {
                part: self._encode(part, graph, one, used)
                for (part, graph), one in zip(self._encoders.items(), ids, strict=True)
            }
            if len(self._cache) > CAPACITY:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def _encode(
        self, part: str, graph: TextEncoderGraph, ids: NDArray[np.int64], adapters: Sequence[WeightedAdapter]
    ) -> TextOutputs:
        own = [(adapter.parts[part], weight) for adapter, weight in adapters if part in adapter.parts]
        parts = [weights for weights, _ in own]
        row = {position: weight for position, (_, weight) in enumerate(own)}
        feeds: Feeds = {"input_ids": ids[np.newaxis], **graph.layout.arrays(parts), **graph.layout.scales(parts, [row])}
        return dict(zip(graph.outputs, run_graph(graph.session, feeds), strict=True))


def _text_adapters(adapters: Sequence[WeightedAdapter]) -> list[WeightedAdapter]:
    """Those with LoRA for a text encoder, sorted by digest; an adapter that is named twice gets the sum of its weights."""
    weights: dict[str, float] = {}
    by_digest = {adapter.digest: adapter for adapter, _ in adapters if adapter.parts.keys() - {"unet"}}
    for adapter, weight in adapters:
        weights[adapter.digest] = weights.get(adapter.digest, 0.0) + weight
    return [WeightedAdapter(by_digest[digest], weights[digest]) for digest in sorted(by_digest)]
