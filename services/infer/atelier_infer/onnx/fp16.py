"""Converts a UNet's graph to float16 for GPUs: half the memory traffic, and tensor cores. Inputs and outputs stay float32.

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
"""Everything that the inputs of these operators are computed from stays float32."""

FP16 = "/half"
"""Suffix of converted values."""

FIXED_INPUTS = {"Resize": (1, 2)}
"""Positions of inputs that must be float32 whatever the type of the data, by operator."""


def write_fp16(source: Path, target: Path, weights: str) -> None:
    """Writes the converted graph, with its weights in one external file.

    Args:
        source: an ONNX graph with float32 weights.
        target: the file to write; its folder exists.
        weights: name of the file for the weights.

    Raises:
        BundleError: the graph contains subgraphs, which are not supported.
    """
    import onnx  # only the extra infer-cuda installs it

    model = onnx.load(source)
    convert_to_fp16(model.graph)
    onnx.save(model, target, save_as_external_data=True, location=weights)


def convert_to_fp16(graph: onnx.GraphProto) -> None:
    """Converts in place; value_info must hold the types, as it does in exports.

    Raises:
        BundleError: the graph contains subgraphs.
    """
    from onnx import TensorProto, helper

    if inner := next((node for node in graph.node if any(item.HasField("g") or item.graphs for item in node.attribute)), None):
        raise BundleError(f"float16 needs a graph without subgraphs; received one in {inner.op_type} {inner.name!r}")
    angles, float32 = _ancestors(graph), _float32_values(graph)
    for item in graph.initializer:
        if item.data_type == TensorProto.FLOAT and item.name not in float32:
            item.CopyFrom(_to_fp16(item))
    outputs = {item.name for item in graph.output if item.type.tensor_type.elem_type == TensorProto.FLOAT} - float32
    nodes, cast = list[Any](), set[str]()
    for index, original in enumerate(graph.node):
        node = helper.make_node("", [], [])
        node.CopyFrom(original)
        if index not in angles:
            for at, name in enumerate(node.input):
                if at in FIXED_INPUTS.get(node.op_type, ()) or name not in float32 | outputs:
                    continue
                if name in float32 and name not in cast:
                    nodes.append(helper.make_node("Cast", [name], [name + FP16], name + FP16, to=TensorProto.FLOAT16))
                    cast.add(name)
                node.input[at] = name + FP16
            _convert_attributes(node)
        for at, name in enumerate(node.output):
            if name in outputs:
                node.output[at] = name + FP16
        nodes.append(node)
    nodes += [
        helper.make_node("Cast", [name + FP16], [name], name + "/float", to=TensorProto.FLOAT) for name in sorted(outputs)
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # it names the old types


def _ancestors(graph: onnx.GraphProto) -> set[int]:
    """Positions of the nodes that compute angles, sine and cosine included."""
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output}
    ancestors: set[int] = set()
    left = [index for index, node in enumerate(graph.node) if node.op_type in ANGLES]
    while left:
        if (index := left.pop()) not in ancestors:
            ancestors.add(index)
            left += [maker[name] for name in graph.node[index].input if name in maker]
    return ancestors


def _float32_values(graph: onnx.GraphProto) -> set[str]:
    """Names of values that stay float32: graph inputs, ancestors of angles, and inputs that operators require."""
    from onnx import TensorProto

    kinds = {item.name: item.type.tensor_type.elem_type for item in (*graph.input, *graph.value_info)}
    kinds |= {item.name: item.data_type for item in graph.initializer}
    float32 = {item.name for item in graph.input}
    for index in _ancestors(graph):
        float32 |= {*graph.node[index].input, *graph.node[index].output}
    for node in graph.node:
        float32 |= {name for at, name in enumerate(node.input) if at in FIXED_INPUTS.get(node.op_type, ())}
    return {name for name in float32 if kinds.get(name) == TensorProto.FLOAT}


def _to_fp16(tensor: onnx.TensorProto) -> onnx.TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)


def _convert_attributes(node: onnx.NodeProto) -> None:
    """Converts constants and the targets of casts."""
    from onnx import TensorProto

    for attribute in node.attribute:
        if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_to_fp16(attribute.t))
        elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
