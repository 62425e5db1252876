"""Running a graph."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from atelier_infer.errors import GraphError
from atelier_infer.schedulers import Array

Feeds = dict[str, NDArray[Any]]


class Graph(Protocol):
    """What is used of an `onnxruntime.InferenceSession`."""

    def run(self, output_names: None, feeds: Feeds) -> list[Any]:
        """Every output of the graph."""
        ...


def run_graph(graph: Graph, feeds: Feeds) -> Array:
    """The graph's one output, float32.

    Raises:
        GraphError: ONNX Runtime raised.
    """
    try:
        (output,) = graph.run(None, feeds)
    except Exception as error:  # the library's classes share no other base
        raise GraphError(f"ONNX Runtime failed: {error}") from error
    result: Array = output
    return result
