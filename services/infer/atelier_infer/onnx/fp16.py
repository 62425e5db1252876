"""A UNet's graph in float16, for GPUs: half the memory to read, and their matrix units. Inputs and outputs stay float32.

The time embedding stays float32: its angles reach a thousand radians, where float16 is as coarse as half a radian.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atelier_infer.errors import BundleError

if TYPE_CHECKING:
    import onnx

ANGLES = ("Sin", "Cos")
"""What these are computed from stays float32."""

HALF = "/half"
"""Ends the names of what was float32."""

FIXED_INPUTS = {"Resize": (1, 2)}
"""Inputs that the operator wants in float32 whatever its data is: by operator, their positions."""


def write_half(source: Path, target: Path, weights: str) -> None:
    """Writes the graph anew, with its weights in one file beside it.

    Args:
        source: an ONNX graph with float32 weights.
        target: the file to write; its folder exists.
        weights: name of the file for the weights.

    Raises:
        BundleError: the graph has graphs inside it, whose types are not followed here.
    """
    import onnx  # of the extra infer-cuda: other providers do without it

    model = onnx.load(source)
    narrow(model.graph)
    onnx.save(model, target, save_as_external_data=True, location=weights)


def narrow(graph: onnx.GraphProto) -> None:
    """Turns a graph into float16 in place; its types must be written down in value_info, as exports have them.

    Raises:
        BundleError: it has graphs inside it.
    """
    from onnx import TensorProto, helper

    if inner := next((node for node in graph.node if any(item.HasField("g") or item.graphs for item in node.attribute)), None):
        raise BundleError(f"float16 needs a graph without graphs inside it; received one in {inner.op_type} {inner.name!r}")
    angles, wide = _ancestors(graph), _wide(graph)
    for item in graph.initializer:
        if item.data_type == TensorProto.FLOAT and item.name not in wide:
            item.CopyFrom(_half(item))
    outputs = {item.name for item in graph.output if item.type.tensor_type.elem_type == TensorProto.FLOAT} - wide
    nodes, cast = list[Any](), set[str]()
    for index, original in enumerate(graph.node):
        node = helper.make_node("", [], [])
        node.CopyFrom(original)
        if index not in angles:
            for at, name in enumerate(node.input):
                if at in FIXED_INPUTS.get(node.op_type, ()) or name not in wide | outputs:
                    continue
                if name in wide and name not in cast:
                    nodes.append(helper.make_node("Cast", [name], [name + HALF], name + HALF, to=TensorProto.FLOAT16))
                    cast.add(name)
                node.input[at] = name + HALF
            _narrow_attributes(node)
        for at, name in enumerate(node.output):
            if name in outputs:
                node.output[at] = name + HALF
        nodes.append(node)
    nodes += [
        helper.make_node("Cast", [name + HALF], [name], name + "/float", to=TensorProto.FLOAT) for name in sorted(outputs)
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # it names the old types


def _ancestors(graph: onnx.GraphProto) -> set[int]:
    """Positions of the nodes that compute angles, sine and cosine included."""
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output}
    found: set[int] = set()
    left = [index for index, node in enumerate(graph.node) if node.op_type in ANGLES]
    while left:
        if (index := left.pop()) not in found:
            found.add(index)
            left += [maker[name] for name in graph.node[index].input if name in maker]
    return found


def _wide(graph: onnx.GraphProto) -> set[str]:
    """Names of what stays float32: the graph's inputs, what angles are computed from, and what operators insist on."""
    from onnx import TensorProto

    kinds = {item.name: item.type.tensor_type.elem_type for item in (*graph.input, *graph.value_info)}
    kinds |= {item.name: item.data_type for item in graph.initializer}
    wide = {item.name for item in graph.input}
    for index in _ancestors(graph):
        wide |= {*graph.node[index].input, *graph.node[index].output}
    for node in graph.node:
        wide |= {name for at, name in enumerate(node.input) if at in FIXED_INPUTS.get(node.op_type, ())}
    return {name for name in wide if kinds.get(name) == TensorProto.FLOAT}


def _half(tensor: onnx.TensorProto) -> onnx.TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)


def _narrow_attributes(node: onnx.NodeProto) -> None:
    """Constants become float16, and so does what a cast makes."""
    from onnx import TensorProto

    for attribute in node.attribute:
        if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_half(attribute.t))
        elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
