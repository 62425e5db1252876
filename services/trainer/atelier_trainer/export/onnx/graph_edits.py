"""Changes to the nodes of an exported ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


class ReplacementNodes:
    """The nodes that replace one node; their names begin with the name of its output."""

    def __init__(self, node: onnx.NodeProto, graph: onnx.GraphProto) -> None:
        from onnx import helper

        (self.out,) = node.output
        self.attributes: dict[str, Any] = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        self.nodes, self._graph, self._helper = list[Any](), graph, helper

    def constant(self, name: str, content: Any) -> str:
        """Adds an initializer and returns its name."""
        from onnx import numpy_helper

        self._graph.initializer.append(numpy_helper.from_array(content, f"{self.out}/{name}"))
        return f"{self.out}/{name}"

    def final_node(self, kind: str, inputs: Sequence[str]) -> onnx.NodeProto:
        """A node whose output is that of the replaced one; it is not added."""
        node: onnx.NodeProto = self._helper.make_node(kind, inputs, [self.out], f"{self.out}/{kind}")
        return node

    def add(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        output = f"{self.out}/{name}" if name else self.out
        self.nodes.append(self._helper.make_node(kind, inputs, [output], f"{output}/{kind}", **attributes))
        return output


def drop_unused(graph: onnx.GraphProto) -> None:
    """Removes nodes and weights whose results nothing reads."""
    used = {item.name for item in graph.output}
    for index, node in reversed(list(enumerate(graph.node))):
        if used.isdisjoint(node.output):
            del graph.node[index]
        else:
            used.update(_inputs(node))
    for index, item in reversed(list(enumerate(graph.initializer))):
        if item.name not in used:  # ONNX Runtime would warn of it at each start
            del graph.initializer[index]


def _inputs(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those in its subgraphs included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _inputs(inner)
