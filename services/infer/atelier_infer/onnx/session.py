"""Running a graph."""

from __future__ import annotations

import re
from typing import Any, Protocol

import onnxruntime as ort
from numpy.typing import NDArray

from atelier_infer.arrays import Array
from atelier_infer.errors import GraphError, MemoryFullError

Feeds = dict[str, NDArray[Any]]


class Graph(Protocol):
    """What is used of an `onnxruntime.InferenceSession`."""

    def run(self, output_names: None, feeds: Feeds, run_options: ort.RunOptions | None = None) -> list[Any]:
        """Every output of the graph."""
        ...


NO_MEMORY = re.compile(
    "failed to allocate|bad_alloc|bad allocation|out of memory|not enough memory|cudaErrorMemoryAllocation", re.I
)
"""What ONNX Runtime and its providers say when memory is short; they have no code of their own for that."""


def run_graph(graph: Graph, feeds: Feeds, *, shrink: bool = False) -> Array:
    """The graph's one output, float32.

    Args:
        graph: with one output.
        feeds: array by input.
        shrink: afterwards the session's arena gives its free memory back; it costs the next run some page faults.

    Raises:
        MemoryFullError: there was not enough memory.
        GraphError: ONNX Runtime raised for another reason.
    """
    options = None
    if shrink:
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    try:
        (output,) = graph.run(None, feeds, options) if options else graph.run(None, feeds)
    except Exception as error:  # the library's classes share no other base
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            raise MemoryFullError(
                "there was not enough memory for this size; nothing was drawn; send the request again with a smaller width or "
                "height, or give the service more memory",
                30,
            ) from error
        raise GraphError(f"ONNX Runtime failed: {error}") from error
    result: Array = output
    return result
