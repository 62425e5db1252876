"""Running an ONNX graph."""

from __future__ import annotations

import re
from typing import Any, Protocol

import onnxruntime as ort
from numpy.typing import NDArray

from atelier_infer.arrays import Array
from atelier_infer.errors import GraphError, OutOfMemoryError

Feeds = dict[str, NDArray[Any]]


class Session(Protocol):
    """The part of `onnxruntime.InferenceSession` that is used here."""

    def run(self, output_names: None, feeds: Feeds, run_options: ort.RunOptions | None = None) -> list[Any]: ...


OUT_OF_MEMORY = re.compile(
    "failed to allocate|bad_alloc|bad allocation|out of memory|not enough memory|cudaErrorMemoryAllocation", re.I
)
"""Messages of ONNX Runtime and its providers, which have no error code for this."""


def run_graph(session: Session, feeds: Feeds, *, shrink: bool = False) -> list[Array]:
    """The outputs of a graph, in its order.

    Args:
        session: of the graph.
        feeds: array by input name.
        shrink: return the free memory of the session's arena afterwards; costs the next run some page faults.

    Raises:
        OutOfMemoryError: there was not enough memory.
        GraphError: ONNX Runtime failed for another reason.
    """
    options = None
    if shrink:
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    try:
        return session.run(None, feeds, options) if options else session.run(None, feeds)
    except Exception as error:  # ONNX Runtime's exceptions have no narrower common base
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            raise OutOfMemoryError(
                "there was not enough memory for this size; send the request again with a smaller width or height, or give the "
                "service more memory",
                30,
            ) from error
        raise GraphError(f"ONNX Runtime failed: {error}") from error
